//! Gateway to status over the queue `submissions`: what is to be executed, and the answer.

use chrono::{DateTime, Utc};
use domain::{EngineId, ExecutionId, FailureCode, KeyId, Priority, UserEngineId, UserId, VersionId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use crate::TraceContext;

/// What was accepted under an Idempotency-Key, if anything was; answers `Option<`[`Replay`]`>` to [`AskReplay`].
pub const REPLAY_PATH: &str = "/internal/v1/executions/replay";

/// The message on `submissions`: under load several ride together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Submissions {
    /// Each is readable or not on its own, and never fails its neighbours: see [`SubmissionEntries`].
    pub submissions: Vec<Submission>,
}

/// The same message, when it cannot be read as a whole: entry by entry.
#[derive(Debug, Clone, Deserialize)]
pub struct SubmissionEntries {
    /// Each as it came.
    pub submissions: Vec<Box<RawValue>>,
}

/// What a row of a submission needs at least. Whatever has this gets a row, which then says what is wrong with the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubmissionStub {
    /// Made by the gateway.
    pub execution_id: ExecutionId,
    /// The owner.
    pub user_id: UserId,
    /// The engine.
    pub engine_id: EngineId,
    /// The owner's copy, if the key is bound to one.
    #[serde(default)]
    pub user_engine_id: Option<UserEngineId>,
    /// Its version.
    pub version_id: VersionId,
    /// The key that asked.
    pub key_id: KeyId,
}

impl SubmissionStub {
    /// A submission with nothing in it that could be wrong.
    #[must_use]
    pub fn into_submission(self, submitted_at: DateTime<Utc>) -> Submission {
        Submission {
            execution_id: self.execution_id,
            user_id: self.user_id,
            engine_id: self.engine_id,
            user_engine_id: self.user_engine_id,
            version_id: self.version_id,
            key_id: self.key_id,
            input: RawValue::NULL.to_owned(),
            priority: Priority::default(),
            labels: BTreeMap::new(),
            end_user: None,
            submitted_at,
            deadline_at: None,
            queue_deadline_at: None,
            idempotency: None,
            parent: None,
            trace: None,
        }
    }
}

impl Submission {
    /// What is left of it when the rest cannot be stored.
    #[must_use]
    pub const fn stub(&self) -> SubmissionStub {
        SubmissionStub {
            execution_id: self.execution_id,
            user_id: self.user_id,
            engine_id: self.engine_id,
            user_engine_id: self.user_engine_id,
            version_id: self.version_id,
            key_id: self.key_id,
        }
    }
}

/// One execution to be taken into the ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Submission {
    /// Made by the gateway; a redelivered message has the same one.
    pub execution_id: ExecutionId,
    /// The owner.
    pub user_id: UserId,
    /// The engine.
    pub engine_id: EngineId,
    /// The owner's copy, if the key is bound to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_engine_id: Option<UserEngineId>,
    /// Resolved at submission.
    pub version_id: VersionId,
    /// The key that asked.
    pub key_id: KeyId,
    /// The validated input, as JSON text.
    pub input: Box<RawValue>,
    /// How urgent.
    #[serde(default)]
    pub priority: Priority,
    /// The owner's own marks, at most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The owner's own customer, for their reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_user: Option<String>,
    /// When the gateway took it.
    pub submitted_at: DateTime<Utc>,
    /// Fails (or expires, when never started) at this instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<DateTime<Utc>>,
    /// Expires at this instant when never started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_deadline_at: Option<DateTime<Utc>>,
    /// Present when the client gave an Idempotency-Key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
    /// Present for a restart or a resume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// The request that submitted it: its neighbours in the message are others'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
}

/// The client's Idempotency-Key. Its scope is the owner and the route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Idempotency {
    /// `execute/<engine id>`, `restart/<execution id>`, `resume/<execution id>`.
    pub route: String,
    /// As given, at most 255 bytes.
    pub key: String,
    /// Hexadecimal SHA-256 of the canonical JSON of the body.
    pub body_hash: String,
}

/// Whether the same request was accepted before.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AskReplay {
    /// Whose request.
    pub user_id: UserId,
    /// The key, and the body that it has to have come with.
    pub idempotency: Idempotency,
}

/// An execution that was accepted under an Idempotency-Key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replay {
    /// The first answer's id.
    pub execution_id: ExecutionId,
    /// Its engine.
    pub engine_id: EngineId,
    /// Its version.
    pub version_id: VersionId,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
}

/// Where an execution comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parent {
    /// The execution that is repeated or continued.
    pub execution_id: ExecutionId,
    /// Whether finished units are inherited (resume) or not (restart).
    pub inherit: bool,
    /// Whether a resume may run beside another unfinished execution made from the same one.
    #[serde(default)]
    pub parallel: bool,
}

/// Status to gateway, on the reply queue: one message for all submissions of one gateway in one batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SubmissionReplies {
    /// In no particular order.
    pub replies: Vec<SubmissionReply>,
}

/// What became of one submission. It is committed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubmissionReply {
    /// The id the gateway made.
    pub execution_id: ExecutionId,
    /// What became of it.
    pub outcome: SubmissionOutcome,
}

/// What became of a submission.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum SubmissionOutcome {
    /// In the ledger.
    Accepted {
        /// Its place, at the instant of the reply.
        queue: Option<QueueBlock>,
    },
    /// The same Idempotency-Key and body came before: this is the execution of then.
    Replayed {
        /// The execution of the first submission.
        execution_id: ExecutionId,
        /// Its version, for the answer.
        version_id: VersionId,
        /// When it was created.
        created_at: DateTime<Utc>,
    },
    /// The same Idempotency-Key came before with another body.
    Mismatch,
    /// In the ledger as failed, or refused.
    Rejected {
        /// Why.
        code: FailureCode,
        /// One sentence.
        detail: String,
        /// When a retry makes sense.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// A resume whose source is still unfinished, or is completed, or is being continued already.
    NotResumable {
        /// One sentence.
        detail: String,
    },
}

/// Where an execution stands in the queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueBlock {
    /// From 1; `None` while it waits behind a limit or a pause.
    pub position: Option<u64>,
    /// How many are released before it.
    pub ahead: u64,
    /// When it will probably start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<Eta>,
    /// Why it does not run now: `no_capacity`, `user_limit`, or `starting` (released, and not claimed yet).
    pub waiting_reason: String,
    /// The instant of the reading.
    pub as_of: DateTime<Utc>,
}

/// A waiting time estimate in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eta {
    /// Half of such executions start sooner.
    pub p50: u64,
    /// Nine of ten start sooner.
    pub p90: u64,
}

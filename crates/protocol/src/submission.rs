//! Gateway to status over the queue `submissions`: what is to be executed, and the answer.

use chrono::{DateTime, Utc};
use domain::{EngineId, ExecutionId, FailureCode, KeyId, Priority, UserEngineId, UserId, VersionId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use crate::TraceContext;

/// The message on `submissions`: under load several ride together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Submissions {
    /// Each readable or not on its own: a poisonous one never fails its neighbours.
    pub submissions: Vec<Submission>,
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
    /// Why it does not run now: `no_capacity`, `user_limit`, `engine_limit`, `queue_paused`, `engine_paused`, `starting`.
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

//! The event log of an execution: what happened, numbered by who holds the epoch.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize, Serializer};

use crate::{execution::WaitingReason, failure::Failure, ids::ExecutionId, sequence::Sequence};

/// What an event says. The name is the SSE event name, the fields are part of its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all_fields = "camelCase")]
pub enum EventBody {
    /// Accepted into the ledger, or back in the queue (`reason` says why).
    #[serde(rename = "execution.queued")]
    Queued {
        /// Absent for a new execution; `lease_lost`, `given_back`, `woken` for one that comes back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// An executor has begun an attempt.
    #[serde(rename = "execution.started")]
    Started,
    /// A node has begun.
    #[serde(rename = "node.started")]
    NodeStarted {
        /// The node.
        node: String,
        /// How many units it has.
        units: u32,
    },
    /// One unit of a node is done, or the progress of the execution changed.
    #[serde(rename = "node.progress")]
    NodeProgress {
        /// The node.
        node: String,
        /// Units done.
        done: u32,
        /// Units in all.
        units: u32,
    },
    /// Text of a unit. `offset` counts Unicode code points from the start of the unit's text.
    #[serde(rename = "output.delta")]
    OutputDelta {
        /// The node.
        node: String,
        /// The unit in the node.
        unit: i32,
        /// The text to append at `offset`.
        text: String,
        /// Where it begins.
        offset: u64,
    },
    /// What was shown of a unit from `offset` on is void.
    #[serde(rename = "output.reset")]
    OutputReset {
        /// The node.
        node: String,
        /// The unit in the node.
        unit: i32,
        /// Code points that stay.
        offset: u64,
        /// `retry` or `new_attempt`.
        reason: String,
    },
    /// A provider call failed and will be tried again.
    #[serde(rename = "node.retrying")]
    NodeRetrying {
        /// The node.
        node: String,
        /// The unit in the node.
        unit: i32,
        /// The stable code of what failed.
        code: String,
        /// The wait before the next call.
        after_ms: u64,
    },
    /// A node and all of its units are done.
    #[serde(rename = "node.completed")]
    NodeCompleted {
        /// The node.
        node: String,
    },
    /// A node failed.
    #[serde(rename = "node.failed")]
    NodeFailed {
        /// The node.
        node: String,
        /// The stable code.
        code: String,
    },
    /// No edge reached the node.
    #[serde(rename = "node.skipped")]
    NodeSkipped {
        /// The node.
        node: String,
    },
    /// Parked without a slot.
    #[serde(rename = "execution.waiting")]
    Waiting {
        /// Why.
        reason: WaitingReason,
        /// When it wakes by itself.
        #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "optional_milliseconds")]
        until: Option<DateTime<Utc>>,
    },
    /// A stop was asked for.
    #[serde(rename = "execution.cancelling")]
    Cancelling,
    /// Tokens of the execution so far.
    #[serde(rename = "usage.updated")]
    UsageUpdated {
        /// Input tokens.
        input: i64,
        /// Output tokens.
        output: i64,
        /// Both.
        total: i64,
    },
    /// The last event: finished with its result.
    #[serde(rename = "execution.completed")]
    Completed,
    /// The last event: finished with an error.
    #[serde(rename = "execution.failed")]
    Failed {
        /// The error, without what only operators may read.
        error: PublicFailure,
    },
    /// The last event: stopped.
    #[serde(rename = "execution.cancelled")]
    Cancelled,
    /// The last event: a deadline passed before it ever started.
    #[serde(rename = "execution.expired")]
    Expired,
}

/// A failure as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicFailure {
    /// The stable code.
    pub code: String,
    /// One sentence.
    pub detail: String,
    /// The node that failed, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_node: Option<String>,
}

impl From<&Failure> for PublicFailure {
    fn from(failure: &Failure) -> Self {
        Self {
            code: failure.code.as_str().to_owned(),
            detail: failure.detail.clone(),
            failed_node: failure.failed_node.clone(),
        }
    }
}

impl EventBody {
    /// The SSE event name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "execution.queued",
            Self::Started => "execution.started",
            Self::NodeStarted { .. } => "node.started",
            Self::NodeProgress { .. } => "node.progress",
            Self::OutputDelta { .. } => "output.delta",
            Self::OutputReset { .. } => "output.reset",
            Self::NodeRetrying { .. } => "node.retrying",
            Self::NodeCompleted { .. } => "node.completed",
            Self::NodeFailed { .. } => "node.failed",
            Self::NodeSkipped { .. } => "node.skipped",
            Self::Waiting { .. } => "execution.waiting",
            Self::Cancelling => "execution.cancelling",
            Self::UsageUpdated { .. } => "usage.updated",
            Self::Completed => "execution.completed",
            Self::Failed { .. } => "execution.failed",
            Self::Cancelled => "execution.cancelled",
            Self::Expired => "execution.expired",
        }
    }

    /// Whether nothing follows it.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed { .. } | Self::Cancelled | Self::Expired)
    }
}

/// Whether an event of this name is the last of its execution.
#[must_use]
pub fn is_terminal_name(name: &str) -> bool {
    matches!(name, "execution.completed" | "execution.failed" | "execution.cancelled" | "execution.expired")
}

fn milliseconds<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[expect(clippy::ref_option, reason = "what serde passes")]
fn optional_milliseconds<S: Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => milliseconds(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// One entry of the log with everything its SSE data shows. The data is `{name, sequence, prev, executionId, attempt, at, ..}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its number.
    pub sequence: Sequence,
    /// The number of the event before it; 0 for the first.
    pub prev: Sequence,
    /// Whose log it is in.
    pub execution_id: ExecutionId,
    /// The latest attempt so far, from 1; 0 while never started.
    pub attempt: i32,
    /// When it happened.
    #[serde(serialize_with = "milliseconds")]
    pub at: DateTime<Utc>,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

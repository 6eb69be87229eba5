//! The event log of an execution: what happened, numbered by who holds the epoch.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{execution::WaitingReason, failure::Failure, ids::ExecutionId};

/// The number of an event: `epoch << 32 | n`, n from 1 in every epoch. 0 is before the first event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub i64);

impl Sequence {
    /// Before the first event.
    pub const START: Self = Self(0);

    /// The `n`th event of `epoch`.
    #[must_use]
    pub const fn new(epoch: i32, n: u32) -> Self {
        Self(((epoch as i64) << 32) | n as i64)
    }

    /// The epoch whose holder wrote the event.
    #[must_use]
    pub const fn epoch(self) -> i32 {
        (self.0 >> 32) as i32
    }

    /// The number of the event that `epoch`'s holder writes after this one.
    #[must_use]
    pub const fn next_in(self, epoch: i32) -> Self {
        if self.epoch() == epoch { Self(self.0 + 1) } else { Self::new(epoch, 1) }
    }
}

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
        #[serde(default, skip_serializing_if = "Option::is_none")]
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
    /// The epoch of the attempt it belongs to; 0 while never started.
    pub attempt: i32,
    /// When it happened.
    #[serde(serialize_with = "milliseconds")]
    pub at: DateTime<Utc>,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// An event as it is stored and sent: without what the log it is in already says. Rendering it gives the same text each
/// time, so that live and replayed events are equal to the letter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its number.
    #[serde(rename = "s")]
    pub sequence: Sequence,
    /// The number of the event before it.
    #[serde(rename = "p")]
    pub prev: Sequence,
    /// When it happened, in milliseconds.
    #[serde(rename = "t", with = "chrono::serde::ts_milliseconds")]
    pub at: DateTime<Utc>,
    /// Its name.
    #[serde(rename = "n")]
    pub name: String,
    /// The fields of its body as a JSON object, without the name.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Box<RawValue>>,
}

impl Event {
    /// The stored form.
    ///
    /// # Errors
    /// When the event cannot be written as JSON, which no event of ours is.
    pub fn record(&self) -> Result<EventRecord, serde_json::Error> {
        let body = serde_json::to_string(&self.body)?;
        let name = self.body.name();
        // `{"name":"..."` comes first (a test holds it); then the fields, if there are any.
        let rest = body.get(NAME.len() + name.len() + 1..).unwrap_or_default();
        let fields = match rest.strip_prefix(',') {
            Some(fields) => Some(RawValue::from_string(format!("{{{fields}"))?),
            None => None,
        };
        Ok(EventRecord { sequence: self.sequence, prev: self.prev, at: self.at, name: name.to_owned(), fields })
    }
}

/// How the JSON of a body begins.
const NAME: &str = "{\"name\":\"";

impl EventRecord {
    /// The data of the SSE event: `{sequence, prev, executionId, attempt, at, name, ..}` on one line.
    #[must_use]
    pub fn data(&self, execution: ExecutionId) -> String {
        let fields = self.fields.as_ref().map_or("{}", |fields| fields.get());
        let mut data = format!(
            "{{\"sequence\":{},\"prev\":{},\"executionId\":\"{execution}\",\"attempt\":{},\"at\":\"{}\",\"name\":\"{}\"",
            self.sequence.0,
            self.prev.0,
            self.sequence.epoch(),
            self.at.to_rfc3339_opts(SecondsFormat::Millis, true),
            self.name,
        );
        let fields = fields.trim_start_matches('{');
        if fields != "}" {
            data.push(',');
        }
        data.push_str(fields);
        data
    }

    /// What it says.
    ///
    /// # Errors
    /// When the stored fields are no event of this version.
    pub fn body(&self) -> Result<EventBody, serde_json::Error> {
        let fields = self.fields.as_ref().map_or("{}", |fields| fields.get()).trim_start_matches('{');
        let comma = if fields == "}" { "" } else { "," };
        serde_json::from_str(&format!("{NAME}{}\"{comma}{fields}", self.name))
    }

    /// About how many bytes it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.fields.as_ref().map_or(0, |fields| fields.get().len())
    }

    /// Whether nothing follows it.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        is_terminal_name(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_starts_at_one_in_every_epoch() {
        assert_eq!(Sequence::START.next_in(0), Sequence(1));
        assert_eq!(Sequence(1).next_in(0), Sequence(2));
        assert_eq!(Sequence(7).next_in(3), Sequence::new(3, 1));
        assert_eq!(Sequence::new(3, 1).epoch(), 3);
    }

    fn event(body: EventBody) -> Event {
        Event {
            sequence: Sequence::new(2, 7),
            prev: Sequence::new(2, 6),
            execution_id: ExecutionId::generate(),
            attempt: 2,
            at: DateTime::from_timestamp_millis(1_790_000_000_123).unwrap(),
            body,
        }
    }

    fn every_shape() -> Vec<EventBody> {
        let (node, unit) = ("outline \"one\"".to_owned(), 3);
        vec![
            EventBody::Queued { reason: None },
            EventBody::Queued { reason: Some("woken".into()) },
            EventBody::Started,
            EventBody::OutputDelta { node: node.clone(), unit, text: "{नमस्ते}\n,\"".into(), offset: 3 },
            EventBody::OutputReset { node, unit, offset: 0, reason: "retry".into() },
            EventBody::Waiting { reason: WaitingReason::Provider, until: None },
            EventBody::UsageUpdated { input: 1, output: 2, total: 3 },
            EventBody::Failed { error: PublicFailure { code: "x".into(), detail: "{".into(), failed_node: None } },
            EventBody::Completed,
        ]
    }

    #[test]
    fn a_record_renders_the_same_data_as_the_event_itself() {
        for event in every_shape().into_iter().map(event) {
            let record = event.record().unwrap();

            assert_eq!(record.data(event.execution_id), serde_json::to_string(&event).unwrap());
            assert_eq!(record.body().unwrap(), event.body);
            assert_eq!(record.name, event.body.name());
        }
    }

    #[test]
    fn a_record_survives_being_stored() {
        for event in every_shape().into_iter().map(event) {
            let stored = serde_json::to_string(&event.record().unwrap()).unwrap();
            let back: EventRecord = serde_json::from_str(&stored).unwrap();

            assert_eq!(back.data(event.execution_id), serde_json::to_string(&event).unwrap());
        }
    }
}

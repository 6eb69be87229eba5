//! Executor to status over internal HTTP: the report stream. One ordered request at a time per executor carries the
//! units, usage rows, events and finishes of all of its executions.

use chrono::{DateTime, Utc};
use domain::{CallId, EventRecord, ExecutionId, ExecutorId, Failure, Sequence, UnitKey, WaitingReason};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Where reports go.
pub const REPORTS_PATH: &str = "/internal/v1/reports";

/// `POST` [`REPORTS_PATH`] to the leader.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportRequest {
    /// This boot of the executor.
    pub executor_id: ExecutorId,
    /// At most one entry per execution.
    pub reports: Vec<Report>,
}

/// What happened in one execution since the last acknowledged report.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Which execution.
    pub execution_id: ExecutionId,
    /// The fencing number of the attempt.
    pub epoch: i32,
    /// Events in order without a gap: the first one's `prev` is the last acknowledged or an earlier one (already stored
    /// ones are trimmed).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventRecord>,
    /// Finished units. Acknowledged means: never executed again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<UnitReport>,
    /// One row per provider call, taken from anyone, once, by call id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usage: Vec<UsageRow>,
    /// How far it is, when that changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The end of this attempt. Nothing may follow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish: Option<Finish>,
}

/// The end of one unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitReport {
    /// Which unit.
    pub key: UnitKey,
    /// Its output as JSON text: a string for text, any value for JSON, `{title, text}` for a chapter.
    pub output: Box<RawValue>,
    /// `false` for partial text that is kept of a unit which was stopped or failed.
    pub complete: bool,
}

/// Progress as the API shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Nodes that are done.
    pub nodes_done: u32,
    /// Nodes in all.
    pub nodes_total: u32,
    /// Units done, for the percentage.
    pub units_done: u32,
    /// Units in all as known now (a loop's count is known once its list is).
    pub units_total: u32,
    /// Words of finished units.
    pub words: u64,
    /// The node that began last and is not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_node: Option<String>,
}

/// One provider call in the usage ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageRow {
    /// Its own id: counted once.
    pub call_id: CallId,
    /// The unit that asked.
    pub key: UnitKey,
    /// `provider/model-id`.
    pub model: String,
    /// Where the numbers come from.
    pub source: UsageSource,
    /// Tokens read, cached ones included; `None` when nobody knows.
    pub input_tokens: Option<i64>,
    /// Tokens written, reasoning included.
    pub output_tokens: Option<i64>,
    /// Part of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read_tokens: Option<i64>,
    /// Part of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_tokens: Option<i64>,
    /// Part of the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<i64>,
    /// How the call ended.
    pub outcome: CallOutcome,
    /// The provider's `x-request-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_request_id: Option<String>,
    /// The provider's usage JSON verbatim: for operators only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<Box<RawValue>>,
    /// When the request was sent.
    pub started_at: DateTime<Utc>,
    /// When it was over.
    pub ended_at: DateTime<Utc>,
}

/// Provenance of token numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i16)]
pub enum UsageSource {
    /// The provider said so.
    Provider = 0,
    /// Our tokenizer.
    Counted = 1,
    /// Characters divided by four.
    Estimated = 2,
    /// The executor died during the call; from the stored text.
    Lost = 3,
}

/// How a provider call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i16)]
pub enum CallOutcome {
    /// With its terminal marker.
    Completed = 0,
    /// With an error.
    Failed = 1,
    /// We closed it.
    Aborted = 2,
}

/// The end of an attempt. (Externally tagged: serde cannot carry raw JSON through an internal tag.)
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Finish {
    /// All nodes are settled.
    Completed {
        /// What the API shows as `result`: the output node's value.
        result: Box<RawValue>,
        /// The rendered files.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        deliverables: Vec<DeliverableRow>,
    },
    /// It cannot be finished.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// A stop was obeyed: every provider connection is closed.
    Cancelled {
        /// When the executor heard of the stop.
        acknowledged_at: DateTime<Utc>,
        /// When the last provider connection was closed.
        upstream_closed_at: DateTime<Utc>,
        /// Tokens of the execution at that time.
        tokens: i64,
    },
    /// Drain: another executor continues at the first unfinished unit.
    GivenBack,
    /// Put aside without a slot.
    Parked {
        /// Why.
        reason: WaitingReason,
        /// When it wakes.
        until: DateTime<Utc>,
    },
}

/// One rendered format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliverableRow {
    /// `md`, `html`, `txt`, `json`.
    pub format: String,
    /// File name, unique in its execution.
    pub name: String,
    /// The media type.
    pub media_type: String,
    /// Size.
    pub bytes: i64,
    /// Where it is in the object store; `None` when rendering failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_key: Option<String>,
    /// One sentence, when rendering failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The answer, one verdict per report.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportResponse {
    /// In the order of the reports.
    pub verdicts: Vec<Verdict>,
    /// Of the executions in this request, those which somebody watches now: their deltas are sent at most every 50 ms,
    /// those of all others once a second.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watched: Vec<ExecutionId>,
}

/// What became of one report. It is committed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Which execution.
    pub execution_id: ExecutionId,
    /// The attempt the verdict is about.
    pub epoch: i32,
    /// Events up to this one are stored; the executor forgets them.
    pub stored_through: Sequence,
    /// What to do now.
    pub standing: Standing,
}

/// How an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Go on.
    Held,
    /// Stop: close every provider connection and report the finish.
    Cancelling,
    /// The attempt is over, by its finish: forget it.
    Over,
    /// Fenced: forget it; nothing of this report but its usage rows was taken.
    Lost,
    /// Events had a gap: nothing was taken, send again from `stored_through`.
    Gap,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_with_a_finish_reads_back() {
        let report = Report {
            execution_id: ExecutionId::generate(),
            epoch: 3,
            events: vec![],
            units: vec![UnitReport {
                key: UnitKey::item("chapters", 2),
                output: RawValue::from_string(r#"{"title":"One","text":"नमस्ते"}"#.to_owned()).unwrap(),
                complete: true,
            }],
            usage: vec![],
            progress: None,
            finish: Some(Finish::Completed {
                result: RawValue::from_string(r#"{"a":[1,2]}"#.to_owned()).unwrap(),
                deliverables: vec![],
            }),
        };

        let text = serde_json::to_string(&report).unwrap();
        let back: Report = serde_json::from_str(&text).unwrap();

        assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }
}

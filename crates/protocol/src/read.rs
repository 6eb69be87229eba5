//! Gateway and executor to any status over internal HTTP: reads. Ownership is part of every query.

use chrono::{DateTime, Utc};
use domain::{
    EngineId, EventRecord, ExecutionId, Failure, Priority, Sequence, State, UnitKey, UserEngineId, UserId, VersionId,
    WaitingReason,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use crate::{
    report::{DeliverableRow, Progress},
    submission::QueueBlock,
};

/// One execution of an owner; answers [`Found`]`<`[`ExecutionView`]`>` to [`ReadExecution`], of which a [`Subject`] is one.
pub const EXECUTION_PATH: &str = "/internal/v1/executions/get";
/// A page of an owner's executions; answers [`ExecutionPage`] to [`ListExecutions`].
pub const EXECUTIONS_PATH: &str = "/internal/v1/executions/list";
/// The place in the queue, from the leader; answers [`Found`]`<Option<QueueBlock>>` to [`Subject`].
pub const QUEUE_PATH: &str = "/internal/v1/executions/queue";
/// Events after a sequence; answers [`Found`]`<`[`EventPage`]`>` to [`ReadEvents`].
pub const EVENTS_PATH: &str = "/internal/v1/executions/events";
/// The tails of many streams at once; answers [`Tails`] to [`ReadTails`].
pub const TAILS_PATH: &str = "/internal/v1/executions/tails";
/// What a restart or resume needs; answers [`Found`]`<`[`Source`]`>` to [`Subject`].
pub const SOURCE_PATH: &str = "/internal/v1/executions/source";
/// Counts for an owner; answers [`Stats`] to [`ReadStats`].
pub const STATS_PATH: &str = "/internal/v1/executions/stats";
/// Outputs of finished units, for executors; answers [`Units`] to [`ReadUnits`].
pub const UNITS_PATH: &str = "/internal/v1/units";
/// A flow, for executors; answers [`Found`]`<`[`VersionView`]`>` to [`ReadVersion`].
pub const VERSION_PATH: &str = "/internal/v1/versions/get";

/// Whose execution is meant. Foreign and unknown ids take the same path.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// The owner; `None` only on the admin listener.
    pub user_id: Option<UserId>,
    /// Set when the key is bound to one copy.
    #[serde(default)]
    pub user_engine_id: Option<UserEngineId>,
    /// The execution.
    pub execution_id: ExecutionId,
}

/// One execution.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadExecution {
    /// Whose and which.
    #[serde(flatten)]
    pub subject: Subject,
    /// Without its place in the queue, which only the leader knows: any replica answers.
    #[serde(default)]
    pub without_queue: bool,
}

/// A read of something that may not be there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "value", rename_all = "camelCase")]
pub enum Found<T> {
    /// Here it is.
    Found(T),
    /// Not this owner's, or not at all.
    Missing,
    /// Intake has not caught up with the id's time: ask again.
    NotYet,
}

/// Everything the API shows of an execution.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionView {
    /// Which execution.
    pub execution_id: ExecutionId,
    /// The owner.
    pub user_id: UserId,
    /// Where it is.
    pub state: State,
    /// Why it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_reason: Option<WaitingReason>,
    /// When it wakes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_at: Option<DateTime<Utc>>,
    /// The engine.
    pub engine_id: EngineId,
    /// Its name now.
    pub engine_name: String,
    /// The owner's copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_engine_id: Option<UserEngineId>,
    /// The version it runs.
    pub version_id: VersionId,
    /// The latest attempt, from 1; 0 while never started.
    pub attempt: i32,
    /// How far it is.
    pub progress: Progress,
    /// Tokens so far.
    pub input_tokens: i64,
    /// Tokens so far.
    pub output_tokens: i64,
    /// Its place while queued; the leader adds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueBlock>,
    /// The receipt of a stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopReceipt>,
    /// The result of a completed one; for others `{partial: {node: ..}}` of the units that are done or kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// The error of a failed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Units a resume would not pay again.
    #[serde(default)]
    pub completed_units: u32,
    /// Their tokens.
    #[serde(default)]
    pub tokens_saved: i64,
    /// The rendered files.
    #[serde(default)]
    pub deliverables: Vec<DeliverableRow>,
    /// The owner's marks.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The owner's own customer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_user: Option<String>,
    /// How urgent.
    pub priority: Priority,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<ExecutionId>,
    /// When the ledger took it.
    pub created_at: DateTime<Utc>,
    /// When its first attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it reached its terminal state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// When it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<DateTime<Utc>>,
    /// The last event.
    pub last_sequence: Sequence,
}

/// The proof that a stop was obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StopReceipt {
    /// When the owner asked.
    pub requested_at: DateTime<Utc>,
    /// When the executor heard of it.
    pub executor_ack_at: Option<DateTime<Utc>>,
    /// When the last provider connection was closed.
    pub upstream_closed_at: Option<DateTime<Utc>>,
    /// `executor`, `status` (nothing was open), `fence` or `lease`; absent until it is closed.
    pub closed_by: Option<String>,
    /// When the terminal state was reached.
    pub finished_at: Option<DateTime<Utc>>,
    /// Tokens of the execution at the stop.
    pub tokens_at_stop: Option<i64>,
}

/// A page of executions, newest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListExecutions {
    /// The owner; `None` only on the admin listener.
    pub user_id: Option<UserId>,
    /// Set when the key is bound to one copy.
    #[serde(default)]
    pub user_engine_id: Option<UserEngineId>,
    /// Only these states; empty for all.
    #[serde(default)]
    pub states: Vec<State>,
    /// Only this engine.
    #[serde(default)]
    pub engine_id: Option<EngineId>,
    /// Created at or after.
    #[serde(default)]
    pub created_after: Option<DateTime<Utc>>,
    /// Created before.
    #[serde(default)]
    pub created_before: Option<DateTime<Utc>>,
    /// All of these labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Entries after this one in the order `createdAt desc, id desc`.
    #[serde(default)]
    pub after: Option<(DateTime<Utc>, ExecutionId)>,
    /// 1 to 100.
    pub limit: u32,
}

/// The answer to [`ListExecutions`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionPage {
    /// At most `limit`; without `result`. May be fewer, even none, when the filter matches rarely.
    pub executions: Vec<ExecutionView>,
    /// Where the next page begins (`after`), if there may be one.
    #[serde(default)]
    pub next: Option<(DateTime<Utc>, ExecutionId)>,
}

/// Events of one execution after a sequence.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadEvents {
    /// Whose and which.
    #[serde(flatten)]
    pub subject: Subject,
    /// Exclusive.
    pub after: Sequence,
    /// At most this many events (1 to 1,000).
    pub limit: u32,
}

/// The answer to [`ReadEvents`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventPage {
    /// In order.
    pub events: Vec<EventRecord>,
    /// Whether there are more stored now.
    pub more: bool,
    /// Whether the last stored event of the execution is a terminal one.
    pub terminal: bool,
    /// The last stored event, when none of these is later than what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Sequence>,
}

/// What silent streams may have missed. At most 1,000 streams.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadTails {
    /// Each with the last sequence it has. The gateway checked ownership when it opened the stream.
    pub streams: Vec<(ExecutionId, Sequence)>,
}

/// The answer to [`ReadTails`]: only the streams that missed something, each at most 200 events.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tails {
    /// In no particular order.
    pub executions: Vec<crate::live::LiveExecution>,
}

/// What a restart or a resume starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Which execution.
    pub execution_id: ExecutionId,
    /// Where it is.
    pub state: State,
    /// The engine.
    pub engine_id: EngineId,
    /// The owner's copy.
    #[serde(default)]
    pub user_engine_id: Option<UserEngineId>,
    /// The version it ran.
    pub version_id: VersionId,
    /// Its input as JSON text.
    pub input: Box<RawValue>,
    /// How urgent.
    pub priority: Priority,
    /// The owner's marks.
    pub labels: BTreeMap<String, String>,
    /// The owner's own customer.
    #[serde(default)]
    pub end_user: Option<String>,
    /// Finished units.
    pub completed_units: u32,
    /// Tokens of its finished units: what a resume saves.
    pub tokens_saved: i64,
    /// A restart or resume of it that is not finished.
    #[serde(default)]
    pub unfinished_resume: Option<ExecutionId>,
}

/// Whose numbers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadStats {
    /// The owner.
    pub user_id: UserId,
    /// Set when the key is bound to one copy.
    #[serde(default)]
    pub user_engine_id: Option<UserEngineId>,
}

/// Counts of an owner's executions and their tokens.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Executions by state.
    pub by_state: BTreeMap<String, i64>,
    /// Tokens read.
    pub input_tokens: i64,
    /// Tokens written.
    pub output_tokens: i64,
}

/// Outputs of the finished units of one execution.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadUnits {
    /// Which execution.
    pub execution_id: ExecutionId,
}

/// The answer to [`ReadUnits`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Units {
    /// By node, then unit.
    pub units: Vec<UnitOutput>,
}

/// One finished unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnitOutput {
    /// Which unit.
    pub key: UnitKey,
    /// Its output as JSON text.
    pub output: Box<RawValue>,
}

/// Which version.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadVersion {
    /// Which version.
    pub version_id: VersionId,
}

/// An immutable engine version.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionView {
    /// Which version.
    pub version_id: VersionId,
    /// Of which engine.
    pub engine_id: EngineId,
    /// The engine's name.
    pub engine_name: String,
    /// The flow document as JSON text.
    pub flow: Box<RawValue>,
}

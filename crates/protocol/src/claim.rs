//! Executor to status over internal HTTP: claims and renewals of leases.

use chrono::{DateTime, Utc};
use domain::{ClaimId, EngineId, ExecutionId, ExecutorId, Sequence, UnitKey, UserId, VersionId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// `POST` [`CLAIMS_PATH`] to the leader. Idempotent by `(execution, executor, claim)`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRequest {
    /// This boot of the executor.
    pub executor_id: ExecutorId,
    /// What it wants: at most 256.
    pub claims: Vec<Claim>,
}

/// Where claims go.
pub const CLAIMS_PATH: &str = "/internal/v1/claims";
/// Where renewals go.
pub const RENEWALS_PATH: &str = "/internal/v1/renewals";
/// How long a lease lasts from the instant the database renewed it.
pub const LEASE_MS: u64 = 5_000;
/// How often an executor renews.
pub const RENEW_EVERY_MS: u64 = 1_000;

/// One wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Which execution.
    pub execution_id: ExecutionId,
    /// This try: a repeated request carries the same one.
    pub claim_id: ClaimId,
}

/// The answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimResponse {
    /// What the executor holds from now on.
    pub grants: Vec<Grant>,
    /// What it does not get: forget it.
    pub refused: Vec<ExecutionId>,
}

/// An attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Which execution.
    pub execution_id: ExecutionId,
    /// The fencing number of this attempt.
    pub epoch: i32,
    /// The last event before this attempt.
    pub last_sequence: Sequence,
    /// Whose it is.
    pub user_id: UserId,
    /// The engine.
    pub engine_id: EngineId,
    /// The immutable flow to run: `POST` [`crate::read::VERSION_PATH`].
    pub version_id: VersionId,
    /// The validated input as JSON text.
    pub input: Box<RawValue>,
    /// When the execution fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<DateTime<Utc>>,
    /// Units that are done, by earlier attempts or inherited: their outputs are fetched with [`crate::read::UNITS_PATH`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finished: Vec<UnitKey>,
    /// Units without an end which have text in the log: starting one of them writes `output.reset {offset: 0}` first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<UnitKey>,
    /// The submitter's `traceparent`, whose trace the run continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// `POST` [`RENEWALS_PATH`] to the leader each second: who I am and what I hold.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Renewal {
    /// This boot of the executor.
    pub executor_id: ExecutorId,
    /// Its configured name.
    pub name: String,
    /// Build version.
    pub version: String,
    /// How many executions it takes at once.
    pub slots: u32,
    /// Whether it takes nothing new.
    pub draining: bool,
    /// What it holds, with the fencing number of each.
    pub held: Vec<Held>,
    /// Set on the last renewal of a process that ends in order: whatever it still holds is given back at once.
    #[serde(default)]
    pub goodbye: bool,
}

/// One held execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Which execution.
    pub execution_id: ExecutionId,
    /// The fencing number of the attempt.
    pub epoch: i32,
}

/// The answer to a renewal: what is not simply `held`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RenewalResponse {
    /// Stop these: their owner asked for it.
    pub cancelling: Vec<ExecutionId>,
    /// Drop these without a word: somebody else holds them or they are over.
    pub lost: Vec<Held>,
    /// An operator asked this executor to drain.
    #[serde(default)]
    pub drain: bool,
}

//! Gateway and admin listener to the leader over internal HTTP: stops and administration.

use chrono::{DateTime, Utc};
use domain::{EngineId, ExecutionId, ExecutorId, KeyId, LevelId, Priority, UserEngineId, UserId, VersionId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::read::Subject;

/// Stop one execution; answers [`crate::read::Found`]`<`[`Stopped`]`>` to [`Stop`].
pub const STOP_PATH: &str = "/internal/v1/executions/stop";
/// Create or change a level by name; answers [`Created`]`<LevelId>` to [`PutLevel`].
pub const LEVELS_PATH: &str = "/internal/v1/admin/levels";
/// Create or change a user by name; answers [`Created`]`<UserId>` to [`PutUser`].
pub const USERS_PATH: &str = "/internal/v1/admin/users";
/// Deploy a flow as the next version of an engine; answers [`Deployed`] to [`Deploy`].
pub const DEPLOY_PATH: &str = "/internal/v1/admin/engines/deploy";
/// Ask the executors for models; answers `BTreeMap<String, `[`crate::control::Availability`]`>` to [`FindModels`].
pub const MODELS_PATH: &str = "/internal/v1/admin/models";
/// Let an engine take submissions, or not; answers `Option<EngineId>` (`None`: there is none) to [`SetEngine`].
pub const ENGINE_PATH: &str = "/internal/v1/admin/engines/set";
/// Assign an engine to a user or a level; answers [`Assigned`] to [`Assign`].
pub const ASSIGN_PATH: &str = "/internal/v1/admin/assignments";
/// Store a new key; answers [`Created`]`<KeyId>` to [`PutKey`].
pub const KEYS_PATH: &str = "/internal/v1/admin/keys";
/// Replace a key; answers [`Created`]`<KeyId>` to [`RotateKey`].
pub const ROTATE_PATH: &str = "/internal/v1/admin/keys/rotate";
/// End a key at once; answers `bool` (it lived) to [`RevokeKey`].
pub const REVOKE_PATH: &str = "/internal/v1/admin/keys/revoke";
/// List executors; answers `Vec<`[`ExecutorView`]`>` to `{}`.
pub const EXECUTORS_PATH: &str = "/internal/v1/admin/executors";
/// The invariant query; answers [`Invariants`] to `{}`.
pub const INVARIANTS_PATH: &str = "/internal/v1/admin/invariants";

/// A stop.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stop {
    /// Whose and which.
    #[serde(flatten)]
    pub subject: Subject,
    /// Fence at once instead of asking the executor.
    #[serde(default)]
    pub force: bool,
    /// How long to wait for the receipt.
    pub wait_ms: u64,
}

/// What became of a stop.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    /// Whether the execution is terminal now.
    pub terminal: bool,
}

/// A level, found by its name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PutLevel {
    /// Unique.
    pub name: String,
    /// Share in the fair queue, above 0.
    pub weight: f64,
    /// `None` is no limit.
    pub max_running: Option<u32>,
    /// `None` is no limit.
    pub max_queued: Option<u32>,
    /// `None` is no limit.
    pub requests_per_minute: Option<u32>,
    /// The highest priority that may be asked for.
    pub max_priority: Priority,
}

/// A user, found by their name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PutUser {
    /// Unique.
    pub name: String,
    /// The level's name.
    pub level: String,
}

/// What was made or found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Created<Id> {
    /// Its id.
    pub id: Id,
    /// Whether it is new.
    pub created: bool,
}

/// A flow to deploy. The caller has validated it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deploy {
    /// The engine's unique name.
    pub name: String,
    /// For people.
    pub title: String,
    /// For people.
    pub description: String,
    /// The flow document as JSON text.
    pub flow: Box<RawValue>,
}

/// A deployed version. Deploying the current flow again is no new version.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployed {
    /// The engine.
    pub engine_id: EngineId,
    /// The version it serves now.
    pub version_id: VersionId,
    /// Counts from 1.
    pub number: i32,
    /// Whether it is new.
    pub created: bool,
}

/// Whether an engine takes submissions. What it has taken goes on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetEngine {
    /// `eng_..` or its name.
    pub engine: String,
    /// Whether it does.
    pub enabled: bool,
}

/// An assignment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assign {
    /// Which engine.
    pub engine_id: EngineId,
    /// To whom.
    pub to: Assignee,
}

/// To whom an engine is assigned.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Assignee {
    /// One user.
    User(UserId),
    /// All present and future members.
    Level(LevelId),
}

/// The copies an assignment made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assigned {
    /// One per user it reached; for a user, exactly one.
    pub user_engines: Vec<UserEngineId>,
}

/// A key to store: only its hash travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PutKey {
    /// The owner.
    pub user_id: UserId,
    /// Bound to this copy.
    #[serde(default)]
    pub user_engine_id: Option<UserEngineId>,
    /// For people.
    #[serde(default)]
    pub name: String,
    /// The key's public part.
    pub public_id: String,
    /// Hexadecimal HMAC-SHA256 of the whole key.
    pub hash: String,
    /// For lists.
    pub last_four: String,
    /// Origins a browser may use it from; empty for any.
    #[serde(default)]
    pub origins: Vec<String>,
    /// When it ends.
    #[serde(default)]
    pub expires_at: Option<DateTime<Utc>>,
}

/// A new key for an old one, with the same owner, copy, origins and expiry.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotateKey {
    /// The old one.
    pub key_id: KeyId,
    /// Only of this owner; `None` on the admin listener.
    #[serde(default)]
    pub user_id: Option<UserId>,
    /// The new key's public part.
    pub public_id: String,
    /// Hexadecimal HMAC-SHA256 of the new key.
    pub hash: String,
    /// For lists.
    pub last_four: String,
    /// How long the old one lives on.
    pub grace_ms: u64,
}

/// Which models are meant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FindModels {
    /// As flows name them: `provider/model-id`.
    pub models: Vec<String>,
}

/// End a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevokeKey {
    /// Which one.
    pub key_id: KeyId,
}

/// An executor as an operator sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutorView {
    /// This boot of it.
    pub executor_id: ExecutorId,
    /// Its configured name.
    pub name: String,
    /// Build version.
    pub version: String,
    /// How many executions it takes at once.
    pub slots: u32,
    /// What it holds.
    pub running: u32,
    /// Whether it takes nothing new.
    pub draining: bool,
    /// Its first renewal.
    pub started_at: DateTime<Utc>,
    /// Its last renewal.
    pub seen_at: DateTime<Utc>,
}

/// What the invariant query found: empty when all is well.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Invariants {
    /// Each with the rule it breaks.
    pub violations: Vec<Violation>,
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Violation {
    /// The rule's short name.
    pub rule: String,
    /// Where, if it is about one execution.
    pub execution_id: Option<ExecutionId>,
}

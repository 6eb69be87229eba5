//! Gateway to status over internal HTTP: who asks, and which engine they mean.

use domain::{EngineId, KeyId, LevelId, Priority, UserEngineId, UserId, VersionId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Where keys are checked.
pub const AUTHENTICATE_PATH: &str = "/internal/v1/keys/authenticate";
/// Where an engine's name or id becomes a version.
pub const RESOLVE_PATH: &str = "/internal/v1/engines/resolve";
/// Where a principal's engines are listed.
pub const ENGINES_PATH: &str = "/internal/v1/engines/list";

/// `POST` [`AUTHENTICATE_PATH`] to any status.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authenticate {
    /// The key's public part.
    pub public_id: String,
    /// Hexadecimal HMAC-SHA256 of the whole key.
    pub hash: String,
}

/// The answer. An unknown id and a wrong hash look the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum Authenticated {
    /// A living key.
    Known(Box<Principal>),
    /// No such key, a wrong one, or a revoked one.
    Unknown,
    /// It was right, and its time is over.
    Expired,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Principal {
    /// The key.
    pub key_id: KeyId,
    /// The owner.
    pub user_id: UserId,
    /// The owner's name.
    pub user_name: String,
    /// Set when the key sees and executes only this copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_engine_id: Option<UserEngineId>,
    /// Origins a browser may use it from; empty for any.
    #[serde(default)]
    pub origins: Vec<String>,
    /// The owner's tier.
    pub level: LevelLimits,
}

/// A tier and what it allows. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LevelLimits {
    /// The level.
    pub level_id: LevelId,
    /// Its name.
    pub name: String,
    /// Share in the fair queue.
    pub weight: f64,
    /// Executions at once per user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
    /// Queued executions per user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queued: Option<u32>,
    /// Requests per minute per user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// The highest priority that may be asked for.
    pub max_priority: Priority,
}

/// `POST` [`RESOLVE_PATH`] to any status; the answer is `Option<ResolvedEngine>` (`None`: not the principal's).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resolve {
    /// The owner.
    pub user_id: UserId,
    /// The copy the key is bound to.
    #[serde(default)]
    pub user_engine_id: Option<UserEngineId>,
    /// `eng_..`, `uen_..` or the engine's name.
    pub engine: String,
    /// A version asked for explicitly.
    #[serde(default)]
    pub version_id: Option<VersionId>,
}

/// `POST` [`ENGINES_PATH`] to any status; the answer is `Vec<ResolvedEngine>`, at most 1,000, by name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListEngines {
    /// The owner.
    pub user_id: UserId,
    /// The copy the key is bound to.
    #[serde(default)]
    pub user_engine_id: Option<UserEngineId>,
}

/// An engine as its user sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedEngine {
    /// The engine.
    pub engine_id: EngineId,
    /// The user's copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_engine_id: Option<UserEngineId>,
    /// Its unique name.
    pub name: String,
    /// For people.
    pub title: String,
    /// For people.
    pub description: String,
    /// Whether it takes submissions.
    pub enabled: bool,
    /// The version a submission gets now.
    pub version_id: VersionId,
    /// Counts from 1 in its engine.
    pub version_number: i32,
    /// The flow document as JSON text (the gateway keeps only the input form of it); `null` in a list.
    pub flow: Box<RawValue>,
}

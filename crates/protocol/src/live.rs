//! Status to gateways over the topics `events.<shard>`: what was just committed, for those who watch.

use domain::{EventRecord, ExecutionId, GatewayId};
use serde::{Deserialize, Serialize};

/// How many shards there are. Changing it is a change of schema version.
pub const SHARDS: u16 = 256;

/// The shard of an execution: the low byte of its random part.
#[must_use]
pub fn shard_of(execution: ExecutionId) -> u16 {
    let [.., last] = *execution.uuid().as_bytes();
    u16::from(last) % SHARDS
}

/// The topic of a shard.
#[must_use]
pub fn topic_of(shard: u16) -> String {
    format!("events.{shard}")
}

/// The message on `events.<shard>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LiveEvents {
    /// Per execution, in order of sequence, without a gap.
    pub executions: Vec<LiveExecution>,
}

/// New events of one execution.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveExecution {
    /// Which execution.
    pub execution_id: ExecutionId,
    /// Committed in this order.
    pub events: Vec<EventRecord>,
}

/// Where gateways say what they watch.
pub const WATCH_PATH: &str = "/internal/v1/watch";
/// Where gateways add to what they watch.
pub const WATCH_ADD_PATH: &str = "/internal/v1/watch/add";
/// A gateway repeats its [`Watch`] this often; three missed ones end it.
pub const WATCH_EVERY_MS: u64 = 2_000;

/// `POST` [`WATCH_PATH`] to the leader: the executions that have a viewer at this gateway, all of them, each two seconds.
/// `POST` [`WATCH_ADD_PATH`]: those that got one since, at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watch {
    /// This boot of the gateway.
    pub gateway_id: GatewayId,
    /// Replaces the list of before, or adds to it.
    pub executions: Vec<ExecutionId>,
}

//! What was committed, for those who watch. An execution without a viewer costs no message.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use broker::Broker;
use domain::{EventRecord, ExecutionId, GatewayId};
use parking_lot::RwLock;
use prometheus::IntCounter;
use protocol::{
    Envelope,
    live::{LiveEvents, LiveExecution, WATCH_EVERY_MS, Watch, shard_of, topic_of},
};
use tokio::time::Instant;

/// A gateway's list is believed for three of its periods.
const BELIEVED_FOR: Duration = Duration::from_millis(3 * WATCH_EVERY_MS);

/// Who watches what.
pub(crate) struct Live {
    broker: Arc<dyn Broker>,
    published: IntCounter,
    gateways: RwLock<HashMap<GatewayId, (HashSet<ExecutionId>, Instant)>>,
}

impl Live {
    pub(crate) fn new(broker: Arc<dyn Broker>, published: IntCounter) -> Self {
        Self { broker, published, gateways: RwLock::default() }
    }

    /// Replaces the list of a gateway.
    pub(crate) fn watch(&self, watch: Watch) {
        let now = Instant::now();
        let mut gateways = self.gateways.write();
        gateways.retain(|_, (_, until)| *until > now);
        gateways.insert(watch.gateway_id, (watch.executions.into_iter().collect(), now + BELIEVED_FOR));
    }

    /// Adds to the list of a gateway.
    pub(crate) fn watch_too(&self, watch: Watch) {
        let now = Instant::now();
        let mut gateways = self.gateways.write();
        let list = gateways.entry(watch.gateway_id).or_insert_with(|| (HashSet::new(), now + BELIEVED_FOR));
        if list.1 <= now {
            // It says again what it watches only in two seconds: until then this is all that is known.
            *list = (HashSet::new(), now + BELIEVED_FOR);
        }
        list.0.extend(watch.executions);
    }

    /// Whether anybody watches an execution.
    pub(crate) fn is_watched(&self, execution: ExecutionId) -> bool {
        let now = Instant::now();
        self.gateways.read().values().any(|(watched, until)| *until > now && watched.contains(&execution))
    }

    /// Publishes new events of one execution, if anybody watches it.
    pub(crate) fn show(&self, execution: ExecutionId, events: &[EventRecord]) {
        if !events.is_empty() && self.is_watched(execution) {
            self.publish(vec![LiveExecution { execution_id: execution, events: events.to_vec() }]);
        }
    }

    /// Publishes new events: one message per shard.
    pub(crate) fn publish(&self, executions: Vec<LiveExecution>) {
        let mut shards: BTreeMap<u16, Vec<LiveExecution>> = BTreeMap::new();
        for execution in executions {
            self.published.inc_by(execution.events.len() as u64);
            shards.entry(shard_of(execution.execution_id)).or_default().push(execution);
        }
        for (shard, executions) in shards {
            match Envelope::new(LiveEvents { executions }, crate::trace::current()).to_bytes() {
                Ok(bytes) => self.broker.announce(&topic_of(shard), bytes.into()),
                Err(error) => tracing::error!(%error, "live events cannot be written"),
            }
        }
    }
}

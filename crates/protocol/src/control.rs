//! Status to executors over the topic `control`: orders that a renewal would bring a second later.

use domain::{ExecutionId, ExecutorId};
use serde::{Deserialize, Serialize};

/// The topic all executors listen to.
pub const TOPIC: &str = "control";

/// One order. Losing it is harmless: the next renewal carries it too.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Control {
    /// Close the provider connections of these executions now and report their finish.
    Stop {
        /// With the fencing number of the attempt that is meant.
        executions: Vec<(ExecutionId, i32)>,
    },
    /// Take nothing new and give back what is held.
    Drain {
        /// Which executor.
        executor_id: ExecutorId,
    },
}

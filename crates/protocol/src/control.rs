//! Status to executors over the topic `control`: orders that a renewal would bring a second later, and questions to all of them.

use std::collections::BTreeMap;

use domain::{ExecutionId, ExecutorId};
use serde::{Deserialize, Serialize};

/// The topic all executors listen to.
pub const TOPIC: &str = "control";

/// One order. Losing a stop or a drain is harmless: the next renewal carries it too. Questions are asked again.
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
    /// Say which of these models your providers have: [`ModelsFound`] to the inbox named.
    FindModels {
        /// As flows name them: `provider/model-id`.
        models: Vec<String>,
        /// Where the answer is expected.
        reply_to: String,
    },
}

/// What one executor says about models.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelsFound {
    /// Who says so.
    pub executor_id: ExecutorId,
    /// Every model asked for.
    pub models: BTreeMap<String, Availability>,
}

/// Whether a model can be called. The greater answer counts when executors disagree: one that can call it is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Availability {
    /// Nobody could say: no executor was there, or its provider did not answer.
    Unchecked,
    /// No executor has a provider of that name.
    NoProvider,
    /// The provider does not have it.
    Missing,
    /// The provider has it.
    Available,
}

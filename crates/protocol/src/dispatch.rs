//! Status to executors over the queue `dispatch`: hints that something may be claimed. Losing one is harmless.

use domain::ExecutionId;
use serde::{Deserialize, Serialize};

/// The message on `dispatch`. An executor claims as many as it has permits for and gives back the rest in a message of
/// its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dispatch {
    /// The leader's term that released them.
    pub term: i64,
    /// In order of release.
    pub executions: Vec<ExecutionId>,
}

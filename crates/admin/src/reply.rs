//! What the leader answered, as an answer to the operator.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use service::{InternalError, Problem, ProblemCode};

use crate::listener::Admin;

const WITHIN: Duration = Duration::from_secs(10);

/// Asks the leader.
pub(crate) async fn ask<T, R>(admin: &Admin, path: &str, question: &T) -> Result<R, Problem>
where
    T: Serialize + Sync,
    R: DeserializeOwned,
{
    admin.status.post_json(path, question, WITHIN).await.map_err(|error| problem(&error))
}

fn problem(error: &InternalError) -> Problem {
    match error.problem() {
        Some(problem) if problem.code == ProblemCode::Conflict => {
            Problem::new(ProblemCode::Conflict).detail(problem.detail.clone().unwrap_or_default())
        }
        Some(problem) if problem.code == ProblemCode::InvalidInput => {
            Problem::new(ProblemCode::InvalidInput).detail(problem.detail.clone().unwrap_or_default())
        }
        _ if error.is_retryable() => Problem::new(ProblemCode::Unavailable).retry_after(Duration::from_secs(1)),
        _ => {
            tracing::error!(%error, "an internal request failed");
            Problem::new(ProblemCode::Internal)
        }
    }
}

//! What went wrong on the way to status, as a problem for the client.

use service::{InternalError, Problem, ProblemCode};
use std::time::Duration;

/// The problem of an internal request that failed. What status says about the client's request is passed on.
pub(crate) fn internal(error: &InternalError) -> Problem {
    match error.problem().map(|problem| problem.code) {
        Some(code @ (ProblemCode::Conflict | ProblemCode::InvalidInput)) => {
            let detail = error.problem().and_then(|problem| problem.detail.clone()).unwrap_or_default();
            Problem::new(code).detail(detail)
        }
        _ if error.is_retryable() => {
            tracing::warn!(%error, "status does not answer");
            unavailable()
        }
        _ => {
            tracing::error!(%error, "an internal request failed");
            Problem::new(ProblemCode::Internal)
        }
    }
}

/// Nothing was changed: the client may try again.
pub(crate) fn unavailable() -> Problem {
    Problem::new(ProblemCode::Unavailable)
        .detail("the platform cannot answer at the moment; try again")
        .retry_after(Duration::from_secs(1))
}

/// Unknown and foreign ids look the same.
pub(crate) fn not_found(what: &str) -> Problem {
    Problem::new(ProblemCode::NotFound).detail(format!("there is no such {what}"))
}

/// Intake has not caught up with the id's time.
pub(crate) fn not_yet() -> Problem {
    Problem::new(ProblemCode::Unavailable)
        .detail("this execution may still be on its way; try again")
        .retry_after(Duration::from_secs(1))
}

//! What went wrong on the way to status, as a problem for the client.

use service::{InternalError, Problem, ProblemCode};
use std::time::Duration;

/// The problem of an internal request that failed. What status says about the client's request is passed on.
pub(crate) fn internal(error: &InternalError) -> Problem {
    if let Some(problem) = error.problem().filter(|problem| is_the_clients(problem)) {
        let detail = problem.detail.clone().unwrap_or_default();
        return problem.errors.iter().fold(Problem::new(problem.code).detail(detail), |problem, field| {
            problem.field(field.pointer.clone(), field.code.clone(), field.detail.clone())
        });
    }
    // An answer that cannot be read is one of another release, or was cut off: another replica may do better.
    if error.is_retryable() || matches!(error, InternalError::Decode { .. }) {
        tracing::warn!(%error, "status does not answer");
        unavailable()
    } else {
        tracing::error!(%error, "an internal request failed");
        Problem::new(ProblemCode::Internal)
    }
}

/// Whether status wrote this about what the client asked. A 4xx without a sentence was made of a bare HTTP status; one about
/// credentials, methods or media types is about our own request.
fn is_the_clients(problem: &Problem) -> bool {
    let ours = matches!(
        problem.code,
        ProblemCode::Unauthorized
            | ProblemCode::Forbidden
            | ProblemCode::NotLeader
            | ProblemCode::MethodNotAllowed
            | ProblemCode::UnsupportedMediaType
    );
    (400..500).contains(&problem.status) && problem.detail.is_some() && !ours && problem.code != ProblemCode::Internal
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(problem: Problem) -> InternalError {
        InternalError::Status { url: String::new(), status: problem.status, problem: Box::new(problem) }
    }

    #[test]
    fn what_status_says_of_the_request_is_passed_on_and_nothing_else() {
        let said = |code| answered(Problem::new(code).detail("a sentence"));
        let decode = serde_json::from_str::<u8>("{").unwrap_err();
        let table = [
            (said(ProblemCode::Conflict), 409),
            (said(ProblemCode::Gone), 410),
            (said(ProblemCode::InvalidInput), 422),
            (said(ProblemCode::Unauthorized), 500),
            (answered(Problem::new(ProblemCode::NotFound)), 500),
            (said(ProblemCode::NotLeader), 503),
            (answered(Problem::new(ProblemCode::Internal)), 503),
            (InternalError::Decode { url: String::new(), source: decode }, 503),
        ];

        for (error, status) in table {
            assert_eq!(internal(&error).status, status, "{error:?}");
        }
    }
}

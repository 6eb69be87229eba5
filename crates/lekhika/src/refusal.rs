//! A request that was answered, but not with what was asked for: what a person reads, and what a client acts on.

use reqwest::StatusCode;
use serde::Deserialize;

/// The answer of a platform that refused something.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    status: StatusCode,
    message: String,
}

/// A problem document (RFC 9457), as far as a person reads it.
#[derive(Debug, Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<FieldProblem>,
}

#[derive(Debug, Deserialize)]
struct FieldProblem {
    #[serde(default)]
    pointer: String,
    #[serde(default)]
    detail: String,
}

impl Refusal {
    /// Reads an answer that is no success; it names each wrong field.
    #[must_use]
    pub fn of(status: StatusCode, body: &[u8]) -> Self {
        let message = match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => {
                let fields = problem.errors.iter().map(|field| format!("\n  {}: {}", field.pointer, field.detail));
                format!("{} ({}): {}{}", status.as_u16(), problem.code, problem.detail, fields.collect::<String>())
            }
            Err(_) => format!("the platform answered {status}"),
        };
        Self { status, message }
    }

    /// Whether the platform says that it is not there, and may be soon.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self.status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
    }

    /// Whether the same request would be refused again.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
        self.status.is_client_error() && !later.contains(&self.status)
    }

    /// Whether there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }
}

/// Whether asking again is pointless.
#[must_use]
pub fn is_permanent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(Refusal::is_permanent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_cannot_change_by_waiting_is_permanent() {
        let permanent = |status| Refusal::of(status, b"").is_permanent();

        assert!(permanent(StatusCode::UNAUTHORIZED) && permanent(StatusCode::NOT_FOUND));
        assert!(!permanent(StatusCode::TOO_MANY_REQUESTS) && !permanent(StatusCode::SERVICE_UNAVAILABLE));
    }

    #[test]
    fn every_wrong_field_is_named() {
        let body =
            br#"{"code":"invalid_input","detail":"it does not fit","errors":[{"pointer":"/input/a","detail":"x"}]}"#;

        let refusal = Refusal::of(StatusCode::UNPROCESSABLE_ENTITY, body);

        assert_eq!(refusal.to_string(), "422 (invalid_input): it does not fit\n  /input/a: x");
    }
}

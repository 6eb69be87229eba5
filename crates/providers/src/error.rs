//! What can go wrong with a model call, by what the caller can do about it.

use std::{fmt, time::Duration};

use domain::FailureCode;
use serde::{Deserialize, Serialize};

/// The most bytes of a provider's words that are kept.
pub const DETAIL_LIMIT: usize = 2048;

/// The kind of failure; decides about retry, fallback and what the user reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// Too many requests or tokens for now.
    RateLimited,
    /// The account is used up: no retry helps.
    QuotaExhausted,
    /// The provider has too much to do.
    Overloaded,
    /// The provider broke.
    Server,
    /// No connection, a broken one, silence, or an answer without its end.
    Network,
    /// The credentials are wrong.
    Auth,
    /// No such model.
    NotFound,
    /// The provider refuses the request.
    InvalidRequest,
    /// The prompt is longer than the model takes.
    ContextOverflow,
    /// The provider's content filter.
    ContentFilter,
}

impl ErrorClass {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::QuotaExhausted => "quota_exhausted",
            Self::Overloaded => "overloaded",
            Self::Server => "server",
            Self::Network => "network",
            Self::Auth => "auth",
            Self::NotFound => "not_found",
            Self::InvalidRequest => "invalid_request",
            Self::ContextOverflow => "context_overflow",
            Self::ContentFilter => "content_filter",
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Overloaded | Self::Server | Self::Network)
    }

    /// Whether another model may succeed with the same request.
    #[must_use]
    pub const fn fallback_helps(self) -> bool {
        !matches!(self, Self::InvalidRequest)
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed model call. `Display` is safe for tenants; `detail` is for operators only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderError {
    /// What kind of failure.
    pub class: ErrorClass,
    /// The HTTP status, if there was an answer with an error status.
    pub status: Option<u16>,
    /// The provider's code, or ours for what happened on the way: `connect_failed`, `connect_timeout`,
    /// `first_byte_timeout`, `idle_timeout`, `connection_lost`, `truncated_stream`, `unexpected_content_type`,
    /// `answer_too_large`, `bad_request_id`.
    pub provider_code: Option<String>,
    /// How long the provider asks us to wait.
    pub retry_after: Option<Duration>,
    /// `x-should-retry`: outweighs the class.
    pub should_retry: Option<bool>,
    /// The provider's name for the call.
    pub request_id: Option<String>,
    /// What the provider or the network said, at most [`DETAIL_LIMIT`] bytes. Admin only.
    pub detail: String,
}

impl ProviderError {
    /// A failure of this class and code, without an HTTP status.
    #[must_use]
    pub fn new(class: ErrorClass, code: &str, detail: impl Into<String>) -> Self {
        Self {
            class,
            status: None,
            provider_code: Some(bounded_code(code)),
            retry_after: None,
            should_retry: None,
            request_id: None,
            detail: bounded(detail.into()),
        }
    }

    /// A failure on the way to the provider or back.
    #[must_use]
    pub fn network(code: &str, detail: impl Into<String>) -> Self {
        Self::new(ErrorClass::Network, code, detail)
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.should_retry.unwrap_or_else(|| self.class.retryable())
    }

    /// What the owner of the execution reads.
    #[must_use]
    pub const fn user_code(&self) -> FailureCode {
        match self.class {
            ErrorClass::RateLimited | ErrorClass::Overloaded => FailureCode::ProviderBusy,
            ErrorClass::QuotaExhausted => FailureCode::ProviderUnavailable,
            ErrorClass::Server | ErrorClass::Network => FailureCode::ProviderError,
            ErrorClass::Auth | ErrorClass::NotFound => FailureCode::EngineMisconfigured,
            ErrorClass::InvalidRequest => FailureCode::InvalidNodeRequest,
            ErrorClass::ContextOverflow => FailureCode::InputTooLong,
            ErrorClass::ContentFilter => FailureCode::ContentBlocked,
        }
    }
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ask the model: {}", self.class)?;
        if let Some(status) = self.status {
            write!(f, ", status {status}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ProviderError {}

/// Cuts at a character, so that it stays text.
pub(crate) fn bounded(mut text: String) -> String {
    if text.len() > DETAIL_LIMIT {
        text.truncate(text.floor_char_boundary(DETAIL_LIMIT));
    }
    text
}

/// Codes become labels and log fields: short, and nothing but an identifier.
pub(crate) fn bounded_code(code: &str) -> String {
    code.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_holds_nothing_the_provider_wrote() {
        let error = ProviderError {
            status: Some(401),
            ..ProviderError::new(ErrorClass::Auth, "invalid_api_key", "Incorrect key sk-secret of org-42")
        };

        assert_eq!(error.to_string(), "ask the model: auth, status 401");
    }

    #[test]
    fn details_are_cut_at_a_character() {
        let error = ProviderError::network("connection_lost", "ü".repeat(4000));

        assert_eq!(error.detail.len(), DETAIL_LIMIT);
        assert!(error.detail.chars().all(|c| c == 'ü'));
    }

    #[test]
    fn a_code_is_an_identifier() {
        assert_eq!(ProviderError::network("a b\n<script>", "").provider_code.unwrap(), "abscript");
    }

    #[test]
    fn the_providers_word_on_retrying_outweighs_the_class() {
        let mut error = ProviderError::new(ErrorClass::Server, "server_error", "");
        assert!(error.retryable());

        error.should_retry = Some(false);
        assert!(!error.retryable());
    }
}

//! The seam between the executor and all providers: one trait, one kind of answer.

use std::time::Duration;

use domain::Usage;
use futures::{future::BoxFuture, stream::BoxStream};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{ChatRequest, ProviderError};

/// What a model call yields. It ends after [`ModelEvent::Finish`] or after one error, never silently. Dropping it
/// closes the provider's connection at once: that is how a stop works.
pub type ModelStream = BoxStream<'static, Result<ModelEvent, ProviderError>>;

/// A provider of language models with its credentials.
pub trait LanguageModel: Send + Sync + 'static {
    /// Asks; nothing is sent before the stream is polled.
    fn stream(&self, request: ChatRequest) -> ModelStream;

    /// Which of these models the provider does not have.
    ///
    /// # Errors
    /// When it cannot say.
    fn missing(&self, ids: Vec<String>) -> BoxFuture<'_, Result<Vec<String>, ProviderError>>;
}

/// A piece of an answer.
#[derive(Debug, Clone)]
pub enum ModelEvent {
    /// The provider accepted the call. Always the first event.
    Opened {
        /// The provider's name for the call (`x-request-id`).
        request_id: Option<String>,
    },
    /// How much more the provider allows for now.
    Limits(LimitState),
    /// More of the answer.
    Text(String),
    /// More of the reasoning that is not part of the answer.
    Reasoning(String),
    /// Tokens of the whole call as known now: replaces what came before, never adds to it.
    Usage {
        /// In our form.
        usage: Usage,
        /// As the provider wrote it: for operators only.
        raw: Box<RawValue>,
    },
    /// The answer is complete. Always the last event.
    Finish {
        /// Why it ended.
        reason: FinishReason,
        /// As the provider wrote it; empty when it said nothing.
        raw: String,
    },
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// It is done.
    Stop,
    /// The most tokens were reached.
    Length,
    /// It wants to call a tool.
    ToolCalls,
    /// The provider's filter cut it, or the model refused.
    ContentFilter,
    /// It waits to be asked to go on.
    Paused,
    /// The provider failed while writing it.
    Error,
    /// Anything new: no reason to fail by itself.
    Other,
}

/// What the provider says about its rate limits with every answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitState {
    /// Requests that are still allowed.
    pub requests_remaining: Option<i64>,
    /// Tokens that are still allowed.
    pub tokens_remaining: Option<i64>,
    /// Until requests are allowed again in full.
    pub requests_reset: Option<Duration>,
    /// Until tokens are allowed again in full.
    pub tokens_reset: Option<Duration>,
}

impl LimitState {
    /// Whether the provider said anything.
    #[must_use]
    pub fn is_known(&self) -> bool {
        *self != Self::default()
    }

    /// How long to wait for what is used up; `None` while something is left of everything.
    #[must_use]
    pub fn exhausted_for(&self) -> Option<Duration> {
        let of = |remaining: Option<i64>, reset| if remaining == Some(0) { reset } else { None };
        of(self.requests_remaining, self.requests_reset).max(of(self.tokens_remaining, self.tokens_reset))
    }
}

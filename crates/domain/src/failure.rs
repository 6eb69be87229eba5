//! Why an execution failed: what a person can act on, and what only an operator may read.

use serde::{Deserialize, Serialize};

/// The stable codes of failed executions (`docs/api.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The provider is overloaded or limits us.
    ProviderBusy,
    /// The provider refuses our account.
    ProviderUnavailable,
    /// The provider failed.
    ProviderError,
    /// The engine's model or credentials are wrong.
    EngineMisconfigured,
    /// The provider refuses the request of this node.
    InvalidNodeRequest,
    /// The prompt is longer than the model takes.
    InputTooLong,
    /// The provider's content filter.
    ContentBlocked,
    /// The answer does not satisfy the node's schema or checks.
    OutputCheckFailed,
    /// `deadlineMs` passed.
    DeadlineExceeded,
    /// Executors were lost too often without progress.
    ExecutorLost,
    /// A quota is used up.
    QuotaExceeded,
    /// The owner's queue is full.
    QueueFull,
    /// The engine is switched off.
    EngineDisabled,
    /// The submission could not be read.
    InvalidRequest,
    /// A fault of ours.
    Internal,
}

impl FailureCode {
    /// The stable code, as in a problem document.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProviderBusy => "provider_busy",
            Self::ProviderUnavailable => "provider_unavailable",
            Self::ProviderError => "provider_error",
            Self::EngineMisconfigured => "engine_misconfigured",
            Self::InvalidNodeRequest => "invalid_node_request",
            Self::InputTooLong => "input_too_long",
            Self::ContentBlocked => "content_blocked",
            Self::OutputCheckFailed => "output_check_failed",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ExecutorLost => "executor_lost",
            Self::QuotaExceeded => "quota_exceeded",
            Self::QueueFull => "queue_full",
            Self::EngineDisabled => "engine_disabled",
            Self::InvalidRequest => "invalid_request",
            Self::Internal => "internal",
        }
    }
}

/// The error of a failed execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The stable code.
    pub code: FailureCode,
    /// One sentence for the owner: no provider bodies, no keys, no prices.
    pub detail: String,
    /// The node that failed, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_node: Option<String>,
    /// What only an operator may read (bounded by the executor to 2 KB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_detail: Option<String>,
}

impl Failure {
    /// A failure without a node.
    #[must_use]
    pub fn new(code: FailureCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), failed_node: None, admin_detail: None }
    }
}

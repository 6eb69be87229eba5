//! The stable codes of problem documents: one table (`docs/api.md`).

use actix_web::http::StatusCode;
use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($name:ident $code:literal $status:ident $retryable:literal $title:literal;)*) => {
        /// What a client switches on. Each has its HTTP status, a title and whether the same request may succeed later.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ProblemCode {
            $(#[doc = $title] $name,)*
            /// A fault of ours; also what an unknown code of a newer release is read as.
            #[serde(other)]
            Internal,
        }

        impl ProblemCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)* Self::Internal];

            /// The code as it stands in documents.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* Self::Internal => "internal" }
            }

            /// The HTTP status. Of a failed execution's code: the status it would have as an answer.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status,)*
                    Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
                }
            }

            /// One short sentence, the same for every occurrence.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* Self::Internal => "Something went wrong on our side" }
            }

            /// Whether the same request may succeed later.
            #[must_use]
            pub const fn retryable(self) -> bool {
                match self { $(Self::$name => $retryable,)* Self::Internal => true }
            }
        }
    };
}

codes! {
    InvalidRequest "invalid_request" BAD_REQUEST false "The request cannot be read";
    InvalidInput "invalid_input" UNPROCESSABLE_ENTITY false "The input does not fit the engine's schema";
    Unauthorized "unauthorized" UNAUTHORIZED false "Authentication is missing or wrong";
    KeyExpired "key_expired" UNAUTHORIZED false "The API key has expired";
    Forbidden "forbidden" FORBIDDEN false "This is not allowed with these credentials";
    OriginNotAllowed "origin_not_allowed" FORBIDDEN false "The key may not be used from this origin";
    NotFound "not_found" NOT_FOUND false "There is no such thing";
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED false "The method is not allowed here";
    Conflict "conflict" CONFLICT false "The request contradicts the present state";
    NotResumable "not_resumable" CONFLICT false "The execution cannot be resumed";
    AlreadyTerminal "already_terminal" CONFLICT false "The execution has already ended";
    IdempotencyInProgress "idempotency_in_progress" CONFLICT true "The first request with this key is still running";
    IdempotencyMismatch "idempotency_mismatch" UNPROCESSABLE_ENTITY false "The key was used with another body";
    PreconditionFailed "precondition_failed" PRECONDITION_FAILED false "The thing has changed in the meantime";
    PreconditionRequired "precondition_required" PRECONDITION_REQUIRED false "If-Match is required";
    PayloadTooLarge "payload_too_large" PAYLOAD_TOO_LARGE false "The body is too large";
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE false "The media type is not supported";
    RateLimited "rate_limited" TOO_MANY_REQUESTS true "Too many requests";
    QueueFull "queue_full" TOO_MANY_REQUESTS true "Too many executions are queued";
    QuotaExceeded "quota_exceeded" TOO_MANY_REQUESTS false "The quota is used up";
    EngineDisabled "engine_disabled" FORBIDDEN false "The engine is switched off";
    EnginePaused "engine_paused" SERVICE_UNAVAILABLE true "The engine is paused";
    Gone "gone" GONE false "The data is no longer kept";
    Unavailable "unavailable" SERVICE_UNAVAILABLE true "The service cannot do this at the moment";
    NotLeader "not_leader" MISDIRECTED_REQUEST true "Another replica leads";
    ProviderBusy "provider_busy" SERVICE_UNAVAILABLE true "The model provider is busy";
    ProviderUnavailable "provider_unavailable" SERVICE_UNAVAILABLE true "The model provider cannot be used";
    ProviderError "provider_error" BAD_GATEWAY true "The model provider failed";
    EngineMisconfigured "engine_misconfigured" INTERNAL_SERVER_ERROR false "The engine is misconfigured";
    InvalidNodeRequest "invalid_node_request" UNPROCESSABLE_ENTITY false "The model provider refuses a node's request";
    InputTooLong "input_too_long" UNPROCESSABLE_ENTITY false "The prompt is longer than the model takes";
    ContentBlocked "content_blocked" UNPROCESSABLE_ENTITY false "The provider's content filter blocked the text";
    OutputCheckFailed "output_check_failed" BAD_GATEWAY true "The model's answer did not pass its checks";
    DeadlineExceeded "deadline_exceeded" GATEWAY_TIMEOUT false "The deadline has passed";
    ExecutorLost "executor_lost" INTERNAL_SERVER_ERROR true "The execution lost its executors too often";
    ApprovalRejected "approval_rejected" CONFLICT false "The approval was refused";
    ApprovalExpired "approval_expired" CONFLICT false "Nobody approved in time";
}

impl ProblemCode {
    /// The code with this text, if this release knows it.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.as_str() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_code_is_its_serialised_form() {
        for code in ProblemCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert_eq!(ProblemCode::from_code(code.as_str()), Some(*code));
        }
    }

    #[test]
    fn a_code_of_a_newer_release_reads_as_internal() {
        assert_eq!(serde_json::from_str::<ProblemCode>("\"from_the_future\"").unwrap(), ProblemCode::Internal);
    }
}

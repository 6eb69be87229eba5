//! What an error status or an error inside a stream means.

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::headers;
use crate::{
    ErrorClass, ProviderError,
    error::{bounded, bounded_code},
};

/// The part of an error body that decides.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    message: Option<Value>,
    #[serde(rename = "type")]
    kind: Option<Value>,
    code: Option<Value>,
    status: Option<Value>,
}

impl Told {
    /// Reads `{"error": {..}}`, `[{"error": {..}}]`, `{"error": ".."}` and the bare object.
    fn from_body(body: &str) -> Self {
        let Ok(mut value) = serde_json::from_str::<Value>(body) else { return Self::default() };
        if let Some(first) = value.as_array_mut().and_then(|errors| errors.first_mut()) {
            value = first.take();
        }
        Self::from_value(value.get_mut("error").map_or(Value::Null, Value::take)).or_from(value)
    }

    fn from_value(value: Value) -> Self {
        match value {
            Value::String(message) => Self { message: Some(message.into()), ..Self::default() },
            value => serde_json::from_value(value).unwrap_or_default(),
        }
    }

    fn or_from(self, outer: Value) -> Self {
        if self.message.is_some() || self.code.is_some() || self.kind.is_some() {
            self
        } else {
            Self::from_value(outer)
        }
    }

    fn text(value: Option<&Value>) -> String {
        match value {
            Some(Value::String(text)) => text.to_lowercase(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        }
    }

    /// What says most, for logs and metrics.
    fn code(&self) -> Option<String> {
        [&self.code, &self.kind, &self.status]
            .into_iter()
            .map(|value| Self::text(value.as_ref()))
            .find(|text| !text.is_empty())
            .map(|text| bounded_code(&text))
    }

    /// The class the words tell, whatever the status: many gateways send a wrong one.
    fn class(&self) -> Option<ErrorClass> {
        let words = format!("{} {}", Self::text(self.code.as_ref()), Self::text(self.kind.as_ref()));
        let message = Self::text(self.message.as_ref());
        let says = |needles: &[&str]| needles.iter().any(|needle| words.contains(needle));
        if says(&["context_length_exceeded"])
            || message.contains("maximum context length")
            || message.contains("prompt is too long")
        {
            Some(ErrorClass::ContextOverflow)
        } else if says(&["insufficient_quota", "billing", "quota_exceeded"]) || message.contains("perday") {
            Some(ErrorClass::QuotaExhausted)
        } else if says(&["rate_limit"]) {
            Some(ErrorClass::RateLimited)
        } else if says(&["overloaded", "slow_down", "service_unavailable"]) {
            Some(ErrorClass::Overloaded)
        } else if says(&["content_filter", "content_policy_violation"]) {
            Some(ErrorClass::ContentFilter)
        } else if says(&["invalid_api_key", "authentication"]) {
            Some(ErrorClass::Auth)
        } else if says(&["model_not_found"]) {
            Some(ErrorClass::NotFound)
        } else {
            None
        }
    }
}

/// The failure of an answer with an error status.
pub(super) fn of_response(status: StatusCode, headers: &HeaderMap, body: &str) -> ProviderError {
    let told = Told::from_body(body);
    let class = match (told.class(), status.as_u16()) {
        // The words may only sharpen a client error; a broken gateway in front of the provider is what its status says.
        (Some(class), 400..=499 | 503 | 529) => class,
        (_, code) => class_of_status(code),
    };
    let limits = headers::limits(headers);
    let hint = headers::retry_after(headers)
        .or_else(|| if class == ErrorClass::RateLimited { limits.exhausted_for() } else { None });
    ProviderError {
        class,
        status: Some(status.as_u16()),
        provider_code: told.code(),
        retry_after: hint,
        should_retry: headers::should_retry(headers),
        request_id: headers::request_id(headers),
        detail: bounded(body.to_owned()),
    }
}

const fn class_of_status(status: u16) -> ErrorClass {
    match status {
        401 | 403 => ErrorClass::Auth,
        402 => ErrorClass::QuotaExhausted,
        404 => ErrorClass::NotFound,
        429 => ErrorClass::RateLimited,
        503 | 529 => ErrorClass::Overloaded,
        // A time-out and a conflict of the provider's own: the same request may pass later.
        408 | 409 | 425 | 500..=599 => ErrorClass::Server,
        400..=499 => ErrorClass::InvalidRequest,
        // A redirect or an empty success: something on the way answers instead of the provider.
        _ => ErrorClass::Network,
    }
}

/// The failure told by an error object inside a stream or a 200.
pub(super) fn of_event(error: &RawValue) -> ProviderError {
    let value = serde_json::from_str(error.get()).unwrap_or(Value::Null);
    let told = Told::from_value(value);
    let number = told.code.as_ref().and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let class = told.class().unwrap_or_else(|| match number {
        Some(status @ 400..=599) => class_of_status(status),
        _ if Told::text(told.kind.as_ref()).contains("invalid_request") => ErrorClass::InvalidRequest,
        _ => ErrorClass::Server,
    });
    ProviderError { provider_code: told.code(), ..ProviderError::new(class, "", error.get()) }
}

/// `false`, `0`, `""` and `{}` are no errors.
pub(super) fn is_truthy(error: &RawValue) -> bool {
    !matches!(error.get().trim(), "null" | "false" | "0" | "\"\"" | "{}" | "[]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16, body: &str) -> ErrorClass {
        of_response(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body).class
    }

    #[test]
    fn statuses_and_words_give_the_class() {
        let cases = [
            (400, r#"{"error":{"code":"context_length_exceeded"}}"#, ErrorClass::ContextOverflow),
            (
                400,
                r#"{"error":{"message":"This model's maximum context length is 8192"}}"#,
                ErrorClass::ContextOverflow,
            ),
            (400, r#"{"error":{"code":"content_filter"}}"#, ErrorClass::ContentFilter),
            (400, r#"{"error":{"type":"invalid_request_error","param":"model"}}"#, ErrorClass::InvalidRequest),
            (401, "", ErrorClass::Auth),
            (402, "", ErrorClass::QuotaExhausted),
            (403, "{}", ErrorClass::Auth),
            (404, r#"{"error":{"code":"model_not_found"}}"#, ErrorClass::NotFound),
            (408, "", ErrorClass::Server),
            (409, "", ErrorClass::Server),
            (413, "", ErrorClass::InvalidRequest),
            (422, r#"{"detail":[]}"#, ErrorClass::InvalidRequest),
            (429, r#"{"error":{"code":"rate_limit_exceeded","type":"tokens"}}"#, ErrorClass::RateLimited),
            (429, r#"{"error":{"code":"insufficient_quota"}}"#, ErrorClass::QuotaExhausted),
            (429, "<html>", ErrorClass::RateLimited),
            (500, r#"{"error":{"code":"model_not_found"}}"#, ErrorClass::Server),
            (502, "", ErrorClass::Server),
            (503, "", ErrorClass::Overloaded),
            (504, "", ErrorClass::Server),
            (529, "", ErrorClass::Overloaded),
            (302, "", ErrorClass::Network),
        ];
        for (status, body, expected) in cases {
            assert_eq!(class(status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn errors_inside_a_stream_are_classified_by_their_words() {
        let of = |json: &str| of_event(&RawValue::from_string(json.to_owned()).unwrap());

        assert_eq!(of(r#"{"type":"server_error","code":null}"#).class, ErrorClass::Server);
        assert_eq!(of(r#"{"type":"overloaded_error"}"#).class, ErrorClass::Overloaded);
        assert_eq!(of(r#"{"code":429,"message":"x"}"#).class, ErrorClass::RateLimited);
        assert_eq!(of(r#""it broke""#).class, ErrorClass::Server);
        assert_eq!(of(r#"{"type":"server_error"}"#).provider_code.as_deref(), Some("server_error"));
    }
}

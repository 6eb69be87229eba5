//! Problem documents (RFC 9457): the one form of every HTTP error.

pub use crate::problem_code::ProblemCode;
use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    body::BoxBody,
    error::JsonPayloadError,
    http::{StatusCode, header},
    web,
};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// The media type of a problem document.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// An error as a client sees it. Of a 5xx it says nothing about the inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// A URI that identifies the kind; it follows from the code.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// One sentence per code.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this request, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The path of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The stable switch.
    pub code: ProblemCode,
    /// The id to quote to support.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// One entry per wrong field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// When to try again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// RFC 6901 pointer into the request body.
    pub pointer: String,
    /// A stable word: `required`, `type`, `enum`, ...
    pub code: String,
    /// For a person.
    pub detail: String,
}

impl Problem {
    /// A problem with the status, title and retryability of its code.
    #[must_use]
    pub fn new(code: ProblemCode) -> Self {
        Self {
            kind: format!("urn:lekhika:problem:{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.status().as_u16(),
            detail: None,
            instance: None,
            code,
            request_id: None,
            errors: Vec::new(),
            retryable: code.retryable(),
            retry_after_ms: None,
        }
    }

    /// Says what is wrong with this request.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Names the request's path.
    #[must_use]
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = Some(instance.into());
        self
    }

    /// Names the request's id.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into());
        self
    }

    /// Adds a wrong field.
    #[must_use]
    pub fn field(mut self, pointer: impl Into<String>, code: impl Into<String>, detail: impl Into<String>) -> Self {
        self.errors.push(FieldError { pointer: pointer.into(), code: code.into(), detail: detail.into() });
        self
    }

    /// Says when to try again; makes it retryable.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retryable = true;
        self.retry_after_ms = Some(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        self
    }
}

impl From<ProblemCode> for Problem {
    fn from(code: ProblemCode) -> Self {
        Self::new(code)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.code.as_str(), self.detail.as_deref().unwrap_or(&self.title))
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut response = HttpResponse::build(self.status_code());
        response.content_type(CONTENT_TYPE);
        if self.status_code() == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(ms) = self.retry_after_ms {
            response.insert_header((header::RETRY_AFTER, ms.div_ceil(1000).max(1).to_string()));
        }
        match serde_json::to_vec(self) {
            Ok(body) => response.body(body),
            Err(_) => response.finish(),
        }
    }
}

/// How a listener reads JSON bodies: at most `limit` bytes, and what cannot be read is a problem document.
#[must_use]
pub fn json_config(limit: usize) -> web::JsonConfig {
    web::JsonConfig::default().limit(limit).error_handler(|error, _: &HttpRequest| {
        let code = match &error {
            JsonPayloadError::Overflow { .. } | JsonPayloadError::OverflowKnownLength { .. } => {
                ProblemCode::PayloadTooLarge
            }
            JsonPayloadError::ContentType => ProblemCode::UnsupportedMediaType,
            _ => ProblemCode::InvalidRequest,
        };
        Problem::new(code).detail(error.to_string()).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_back_as_it_was_written() {
        let problem =
            Problem::new(ProblemCode::InvalidInput).detail("two fields").field("/a", "required", "is missing");

        let json = serde_json::to_value(&problem).unwrap();

        assert_eq!(json["code"], "invalid_input");
        assert_eq!(json["status"], 422);
        assert_eq!(json["type"], "urn:lekhika:problem:invalid_input");
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }

    #[test]
    fn a_retry_time_is_a_header_in_whole_seconds() {
        let response = Problem::new(ProblemCode::Unavailable).retry_after(Duration::from_millis(1200)).error_response();

        assert_eq!(response.headers().get("retry-after").unwrap(), "2");
        assert_eq!(response.headers().get("content-type").unwrap(), CONTENT_TYPE);
    }
}

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

/// An error as a client sees it. Of a 5xx it says nothing about the inside. Its `type` and `title` follow from the code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Document", from = "Document")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The stable switch.
    pub code: ProblemCode,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// When to try again, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// What is wrong with this request, for a person.
    pub detail: Option<String>,
    /// The path of the request.
    pub instance: Option<Box<str>>,
    /// The id to quote to support.
    pub request_id: Option<Box<str>>,
    /// The execution that it is about, where there is one.
    pub execution_id: Option<Box<str>>,
    /// One entry per wrong field.
    pub errors: Vec<FieldError>,
}

/// The written form.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    title: String,
    status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instance: Option<Box<str>>,
    code: ProblemCode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_id: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    execution_id: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    #[serde(default)]
    retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
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
            status: code.status().as_u16(),
            code,
            retryable: code.retryable(),
            retry_after_ms: None,
            detail: None,
            instance: None,
            request_id: None,
            execution_id: None,
            errors: Vec::new(),
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
        self.instance = Some(instance.into().into_boxed_str());
        self
    }

    /// Names the request's id.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into().into_boxed_str());
        self
    }

    /// Names the execution that it is about.
    #[must_use]
    pub fn execution(mut self, id: impl Into<String>) -> Self {
        self.execution_id = Some(id.into().into_boxed_str());
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

impl From<Problem> for Document {
    fn from(problem: Problem) -> Self {
        Self {
            kind: format!("urn:lekhika:problem:{}", problem.code.as_str()),
            title: problem.code.title().to_owned(),
            status: problem.status,
            detail: problem.detail,
            instance: problem.instance,
            code: problem.code,
            request_id: problem.request_id,
            execution_id: problem.execution_id,
            errors: problem.errors,
            retryable: problem.retryable,
            retry_after_ms: problem.retry_after_ms,
        }
    }
}

impl From<Document> for Problem {
    fn from(document: Document) -> Self {
        Self {
            status: document.status,
            code: document.code,
            retryable: document.retryable,
            retry_after_ms: document.retry_after_ms,
            detail: document.detail,
            instance: document.instance,
            request_id: document.request_id,
            execution_id: document.execution_id,
            errors: document.errors,
        }
    }
}

impl From<ProblemCode> for Problem {
    fn from(code: ProblemCode) -> Self {
        Self::new(code)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.code.as_str(), self.detail.as_deref().unwrap_or(self.code.title()))
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

//! Bodies: read within a limit, parsed without trust, refused with a pointer.

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header, web};
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use service::{Problem, ProblemCode};
use std::pin::Pin;

use crate::edge;

/// The largest body.
const LIMIT: usize = 10 << 20;
/// What stands for a lone surrogate while its place is looked for: a noncharacter that no text contains.
const MARK: char = '\u{fdd1}';

/// The JSON object of a request. An empty body is an empty object.
pub(crate) struct JsonBody {
    /// The value.
    pub(crate) value: Value,
}

impl JsonBody {
    /// The body as a typed request. Unknown fields are refused.
    ///
    /// # Errors
    /// 400 that names the field.
    pub(crate) fn read<T: DeserializeOwned>(self) -> Result<T, Problem> {
        serde_path_to_error::deserialize(self.value).map_err(|error| {
            let path = error.path().to_string();
            let pointer = if path == "." { String::new() } else { format!("/{}", path.replace('.', "/")) };
            let detail = error.into_inner().to_string();
            Problem::new(ProblemCode::InvalidRequest).detail(detail.clone()).field(pointer, "invalid", detail)
        })
    }
}

impl FromRequest for JsonBody {
    type Error = actix_web::error::InternalError<Problem>;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Self::Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            read(&request, payload).await.map_err(|problem| {
                let response = edge::problem_response(problem.clone());
                actix_web::error::InternalError::from_response(problem, response)
            })
        })
    }
}

async fn read(request: &HttpRequest, payload: Payload) -> Result<JsonBody, Problem> {
    let bytes = collect(request, payload).await?;
    if bytes.is_empty() {
        return Ok(JsonBody { value: Value::Object(serde_json::Map::new()) });
    }
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind != "application/json" && !kind.ends_with("+json") {
        return Err(Problem::new(ProblemCode::UnsupportedMediaType).detail("send `Content-Type: application/json`"));
    }
    parse(&bytes).map(|value| JsonBody { value })
}

async fn collect(request: &HttpRequest, mut payload: Payload) -> Result<web::BytesMut, Problem> {
    let too_large = || Problem::new(ProblemCode::PayloadTooLarge).detail(format!("at most {LIMIT} bytes"));
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.and_then(|length| length.parse::<usize>().ok()).is_some_and(|length| length > LIMIT) {
        return Err(too_large());
    }
    let mut bytes = web::BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_broken| Problem::new(ProblemCode::InvalidRequest).detail("the body broke off"))?;
        if bytes.len() + chunk.len() > LIMIT {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Parses a body. Nesting is limited by the parser (128 levels), so that no body can exhaust the stack.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Problem> {
    let value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => return Err(lone_surrogates(bytes).unwrap_or_else(|| syntax(&error))),
    };
    if value.is_object() {
        Ok(value)
    } else {
        Err(Problem::new(ProblemCode::InvalidRequest).detail("the body must be a JSON object"))
    }
}

fn syntax(error: &serde_json::Error) -> Problem {
    Problem::new(ProblemCode::InvalidRequest).detail(format!("the body is not JSON: {error}"))
}

/// The problem of a body whose only fault is a lone surrogate: which no Unicode text can hold.
fn lone_surrogates(bytes: &[u8]) -> Option<Problem> {
    let text = std::str::from_utf8(bytes).ok()?;
    let marked = mark(text)?;
    let value: Value = serde_json::from_str(&marked).ok()?;
    let mut pointers = Vec::new();
    find(&value, MARK, String::new(), &mut pointers);
    let problem = Problem::new(ProblemCode::InvalidInput).detail("the input has text that is not Unicode");
    Some(pointers.into_iter().fold(problem, |problem, pointer| {
        problem.field(pointer, "lone_surrogate", "has a surrogate without its other half")
    }))
}

/// The text with every lone `\uD800`..`\uDFFF` replaced; `None` when there is none.
fn mark(text: &str) -> Option<String> {
    let unit = |at: usize| {
        let escape = text.get(at..at + 6)?;
        let digits = escape.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut out = String::with_capacity(text.len());
    let (mut at, mut found) = (0, false);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if !rest.starts_with('\\') {
            let plain = rest.find('\\').unwrap_or(rest.len());
            out.push_str(rest.get(..plain)?);
            at += plain;
        } else if let Some(first) = unit(at).filter(|unit| (0xd800..0xe000).contains(unit)) {
            let pair = first < 0xdc00 && unit(at + 6).is_some_and(|second| (0xdc00..0xe000).contains(&second));
            if pair {
                out.push_str(text.get(at..at + 12)?);
                at += 12;
            } else {
                out.push(MARK);
                found = true;
                at += 6;
            }
        } else {
            let escape: String = rest.chars().take(2).collect();
            at += escape.len();
            out.push_str(&escape);
        }
    }
    found.then_some(out)
}

/// The places of strings (and names) that contain `what`, as pointers (RFC 6901).
pub(crate) fn find(value: &Value, what: char, at: String, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.contains(what) => found.push(at),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find(item, what, format!("{at}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                let pointer = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                if name.contains(what) {
                    found.push(pointer.replace(what, "\u{fffd}"));
                } else {
                    find(value, what, pointer, found);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_levels_are_refused_without_harm() {
        let body = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));

        assert_eq!(parse(body.as_bytes()).unwrap_err().code, ProblemCode::InvalidRequest);
    }

    #[test]
    fn a_lone_surrogate_is_named_by_its_place() {
        let problem = parse(br#"{"input":{"a":["ok","x\ud800y"],"b":"\ud83d\ude00"}}"#).unwrap_err();

        assert_eq!((problem.code, problem.status), (ProblemCode::InvalidInput, 422));
        assert_eq!(problem.errors.len(), 1);
        assert_eq!(problem.errors[0].pointer, "/input/a/1");
    }

    #[test]
    fn an_escaped_backslash_before_u_is_no_surrogate() {
        assert!(parse(br#"{"a":"\\ud800"}"#).is_ok());
    }
}

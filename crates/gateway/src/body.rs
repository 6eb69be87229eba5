//! Bodies: read within limits after the key was checked, parsed without trust, refused with a pointer.

use std::{pin::Pin, time::Duration};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header, web};
use futures::StreamExt as _;
use serde_json::{Map, Value};
use service::{Problem, ProblemCode};

use crate::{
    auth::{self, Caller},
    edge,
    pointer::{self, Step},
};

/// The largest body.
const LIMIT: usize = 10 << 20;
/// How long a client may take to send it.
const WITHIN: Duration = Duration::from_secs(30);
/// What stands for a lone surrogate while its place is looked for: a noncharacter that no text contains.
const MARK: char = '\u{fdd1}';

/// Who asks, and the JSON object they sent; an empty body is an empty object. The key is checked before anything is read.
pub(crate) struct Posted {
    /// Who asks.
    pub(crate) caller: Caller,
    /// What they sent.
    pub(crate) body: Value,
}

impl FromRequest for Posted {
    type Error = actix_web::error::InternalError<Problem>;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Self::Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            let posted = async {
                let caller = auth::check(&request).await?;
                let body = read(&request, payload).await?;
                Ok(Self { caller, body })
            };
            posted.await.map_err(edge::refusal)
        })
    }
}

async fn read(request: &HttpRequest, payload: Payload) -> Result<Value, Problem> {
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or("?").trim());
    if header(header::CONTENT_ENCODING).is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err(Problem::new(ProblemCode::UnsupportedMediaType).detail("send the body without a content coding"));
    }
    if header(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()).is_some_and(|length: usize| length > LIMIT)
    {
        return Err(too_large());
    }
    let bytes = collect(payload, WITHIN).await?;
    if bytes.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let kind = header(header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind != "application/json" && !kind.ends_with("+json") {
        return Err(Problem::new(ProblemCode::UnsupportedMediaType).detail("send `Content-Type: application/json`"));
    }
    parse(&bytes)
}

fn too_large() -> Problem {
    Problem::new(ProblemCode::PayloadTooLarge).detail(format!("at most {LIMIT} bytes"))
}

async fn collect(mut payload: Payload, within: Duration) -> Result<web::BytesMut, Problem> {
    let wrong = |detail: String| Problem::new(ProblemCode::InvalidRequest).detail(detail);
    let collect = async {
        let mut bytes = web::BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|_broken| wrong("the body broke off".to_owned()))?;
            if bytes.len() + chunk.len() > LIMIT {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    let late = |_elapsed| wrong(format!("the body took longer than {} s", within.as_secs()));
    tokio::time::timeout(within, collect).await.map_err(late)?
}

/// Parses a body. Nesting is limited by the parser (128 levels), so that no body can exhaust the stack.
fn parse(bytes: &[u8]) -> Result<Value, Problem> {
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
    let problem = Problem::new(ProblemCode::InvalidInput).detail("the input has text that is not Unicode");
    Some(pointer::find(&value, MARK, &[]).into_iter().fold(problem, |problem, pointer| {
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

/// The fields of a body, taken one by one, with all that is wrong with them. What is left over is unknown.
pub(crate) struct Fields {
    left: Map<String, Value>,
    problem: Problem,
}

/// A sentence that may repeat what a client sent: not all of it.
fn short(text: &str) -> String {
    text.chars().take(200).map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

impl Fields {
    pub(crate) fn of(body: Value) -> Self {
        let left = if let Value::Object(fields) = body { fields } else { Map::new() };
        Self { left, problem: Problem::new(ProblemCode::InvalidInput).detail("an option is not allowed") }
    }

    /// A field; `null` is none. A text that cannot be read is wrong by `code`, anything else by its type.
    pub(crate) fn take<T: serde::de::DeserializeOwned>(&mut self, name: &str, code: &str) -> Option<T> {
        let value = self.take_value(name)?;
        let code = if value.is_string() { code } else { "wrong_type" };
        match serde_path_to_error::deserialize(value) {
            Ok(read) => Some(read),
            Err(error) => {
                let mut steps = vec![Step::Name(name)];
                steps.extend(error.path().iter().filter_map(|segment| match segment {
                    serde_path_to_error::Segment::Map { key } => Some(Step::Name(key)),
                    serde_path_to_error::Segment::Seq { index } => Some(Step::Index(*index)),
                    _ => None,
                }));
                let place = pointer::render(&steps);
                self.wrong(place, code, short(&error.inner().to_string()));
                None
            }
        }
    }

    /// A field as it is; `null` is none.
    pub(crate) fn take_value(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// Notes what is wrong with a field: the first hundred.
    pub(crate) fn wrong(&mut self, pointer: impl Into<String>, code: &str, detail: impl Into<String>) {
        if self.problem.errors.len() < pointer::SHOWN {
            let problem = std::mem::replace(&mut self.problem, Problem::new(ProblemCode::InvalidInput));
            self.problem = problem.field(pointer, code, detail);
        }
    }

    /// Nothing is left.
    ///
    /// # Errors
    /// 400 that names the unknown fields.
    pub(crate) fn known(&self) -> Result<(), Problem> {
        if self.left.is_empty() {
            return Ok(());
        }
        let problem = Problem::new(ProblemCode::InvalidRequest).detail("the body has a field that is not known here");
        Err(self.left.keys().take(pointer::SHOWN).fold(problem, |problem, name| {
            problem.field(pointer::render(&[Step::Name(name)]), "unknown_field", "is not known here")
        }))
    }

    /// Nothing was wrong.
    ///
    /// # Errors
    /// 422 with everything that was.
    pub(crate) fn end(self) -> Result<(), Problem> {
        if self.problem.errors.is_empty() { Ok(()) } else { Err(self.problem) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

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

    #[test]
    fn a_wrong_type_is_named_by_its_place_whatever_the_name() {
        let mut fields = Fields::of(json!({"labels": {"a.b/c": 1}, "many": "x".repeat(10_000)}));

        assert_eq!(fields.take::<BTreeMap<String, String>>("labels", "invalid"), None);
        assert_eq!(fields.take::<u64>("many", "out_of_range"), None);

        let problem = fields.end().unwrap_err();
        assert_eq!(
            (problem.errors[0].pointer.as_str(), problem.errors[0].code.as_str()),
            ("/labels/a.b~1c", "wrong_type")
        );
        assert!(problem.errors[1].detail.len() < 1_000);
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_refused() {
        type Chunk = Result<web::Bytes, actix_web::error::PayloadError>;
        let stalled: Pin<Box<dyn futures::Stream<Item = Chunk>>> = Box::pin(futures::stream::pending::<Chunk>());
        let payload = Payload::Stream { payload: stalled };

        let refused = collect(payload, Duration::from_millis(20)).await.unwrap_err();

        assert_eq!(refused.code, ProblemCode::InvalidRequest);
    }
}

//! The Idempotency-Key of a request, and what "the same body" means.

use actix_web::HttpRequest;
use protocol::submission::Idempotency;
use serde_json::Value;
use service::{Problem, ProblemCode};
use sha2::{Digest as _, Sha256};

/// Numbers below this are integers whichever way they are written: beyond it floating point skips some.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The key of a request and the hash of its body.
#[derive(Debug)]
pub(crate) struct Keyed {
    key: String,
    body_hash: String,
}

impl Keyed {
    /// The Idempotency-Key header, if there is one: a quoted or bare string of 1 to 255 printable bytes.
    ///
    /// # Errors
    /// 400 when it is malformed or given twice.
    pub(crate) fn read(request: &HttpRequest, body: &Value) -> Result<Option<Self>, Problem> {
        let key = header(request)?;
        Ok(key.map(|key| Self { key, body_hash: body_hash(body) }))
    }

    /// What status is told. The scope of a key is the owner and the route.
    pub(crate) fn within(self, route: String) -> Idempotency {
        Idempotency { route, key: self.key, body_hash: self.body_hash }
    }
}

fn header(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let mut values = request.headers().get_all("idempotency-key");
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = |detail: &str| Problem::new(ProblemCode::InvalidRequest).detail(format!("Idempotency-Key: {detail}"));
    if values.next().is_some() {
        return Err(wrong("given twice"));
    }
    let text = value.to_str().map_err(|_unprintable| wrong("must be printable ASCII"))?.trim();
    let text = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    if text.is_empty() || text.len() > 255 || text.contains('"') {
        return Err(wrong("1 to 255 characters, without quotes inside"));
    }
    Ok(Some(text.to_owned()))
}

/// SHA-256 over the JSON value: equal values have equal hashes, however they were written.
fn body_hash(value: &Value) -> String {
    let mut hasher = Sha256::new();
    digest(value, &mut hasher);
    hex::encode(hasher.finalize())
}

fn digest(value: &Value, hasher: &mut Sha256) {
    match value {
        Value::Array(items) => {
            hasher.update(b"[");
            for item in items {
                digest(item, hasher);
                hasher.update(b",");
            }
            hasher.update(b"]");
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            hasher.update(b"{");
            for (name, value) in sorted {
                hasher.update(Value::String(name.clone()).to_string());
                hasher.update(b":");
                digest(value, hasher);
                hasher.update(b",");
            }
            hasher.update(b"}");
        }
        Value::Number(number) => match number.as_f64() {
            // `1`, `1.0` and `1e0` are one number.
            Some(float) if float.fract() == 0.0 && float.abs() < EXACT => hasher.update(format!("{:.0}", float + 0.0)),
            _ => hasher.update(number.to_string()),
        },
        scalar => hasher.update(scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn equal_values_have_equal_hashes() {
        let one = json!({"input": {"a": 1, "b": [true, null]}, "labels": {}});
        let same: Value = serde_json::from_str(r#"{"labels":{},"input":{"b":[true,null],"a":1.0}}"#).unwrap();
        let other = json!({"input": {"a": 1, "b": [null, true]}, "labels": {}});

        assert_eq!(body_hash(&one), body_hash(&same));
        assert_ne!(body_hash(&one), body_hash(&other));
    }

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        let hash = |text: &str| body_hash(&serde_json::from_str(text).unwrap());

        for (one, same) in [("100", "1e2"), ("0", "-0.0"), ("1.5", "15e-1")] {
            assert_eq!(hash(one), hash(same), "{one} {same}");
        }
        for (one, other) in [("1", "1.5"), ("9007199254740993", "9007199254740992"), ("1", "\"1\"")] {
            assert_ne!(hash(one), hash(other), "{one} {other}");
        }
    }
}

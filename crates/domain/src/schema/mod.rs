//! JSON answers of models: finding the JSON in the text, checking it against a schema, knowing the fields a schema promises.

mod fields;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

pub use fields::{Shape, items_of, shape_at};

/// The most bytes a schema may have as JSON.
pub const MAX_SCHEMA_BYTES: usize = 256 * 1024;
/// How deep a schema may nest.
pub const MAX_SCHEMA_DEPTH: usize = 64;
/// The most problems one answer reports.
const MAX_PROBLEMS: usize = 20;

/// One way in which an answer does not satisfy its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaProblem {
    /// An RFC 6901 pointer into the answer; empty for the answer itself.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for SchemaProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = if self.pointer.is_empty() { "the answer" } else { &self.pointer };
        write!(f, "{place}: {}", self.message)
    }
}

/// A JSON Schema (draft 2020-12), compiled once; it never looks anything up on a network or a disk.
#[derive(Debug)]
pub struct JsonSchema {
    document: Value,
    validator: Validator,
}

impl JsonSchema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// The reason why it is no schema, with a pointer into it.
    pub fn compile(document: &Value) -> Result<Self, SchemaProblem> {
        let refuse = |message: String| SchemaProblem { pointer: String::new(), message };
        if !document.is_object() {
            return Err(refuse("a schema is an object".to_owned()));
        }
        if depth(document) > MAX_SCHEMA_DEPTH {
            return Err(refuse(format!("a schema nests at most {MAX_SCHEMA_DEPTH} levels")));
        }
        if document.to_string().len() > MAX_SCHEMA_BYTES {
            return Err(refuse(format!("a schema has at most {} KB", MAX_SCHEMA_BYTES / 1024)));
        }
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .offline()
            .with_pattern_options(PatternOptions::regex().size_limit(1 << 20))
            .build(document)
            .map_err(|error| SchemaProblem {
                pointer: error.instance_path().to_string(),
                message: error.to_string(),
            })?;
        Ok(Self { document: document.clone(), validator })
    }

    /// The schema as it was written.
    #[must_use]
    pub const fn document(&self) -> &Value {
        &self.document
    }

    /// Checks a value.
    ///
    /// # Errors
    /// Every problem, up to a sensible number.
    pub fn check(&self, value: &Value) -> Result<(), Vec<SchemaProblem>> {
        let problems: Vec<SchemaProblem> = self
            .validator
            .iter_errors(value)
            .take(MAX_PROBLEMS)
            .map(|error| SchemaProblem {
                pointer: error.instance_path().to_string(),
                message: shortened(&error.masked().to_string()),
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

/// The JSON value in a model's answer, which may stand in a Markdown fence or between sentences; checked if there is a schema.
///
/// # Errors
/// That there is no JSON, or every way in which it does not satisfy the schema.
pub fn parse_json_output(text: &str, schema: Option<&JsonSchema>) -> Result<Value, Vec<SchemaProblem>> {
    let value = find_json(text)?;
    schema.map_or(Ok(()), |schema| schema.check(&value))?;
    Ok(value)
}

fn find_json(text: &str) -> Result<Value, Vec<SchemaProblem>> {
    let whole = text.trim().trim_start_matches('\u{feff}');
    let complaint = match serde_json::from_str(whole) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    fenced(whole)
        .and_then(|inside| serde_json::from_str(inside.trim()).ok())
        .or_else(|| embedded(whole))
        .ok_or_else(|| vec![SchemaProblem { pointer: String::new(), message: format!("not JSON: {complaint}") }])
}

/// What stands between the first fence and its end.
fn fenced(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("```")?;
    let (_language, body) = after.split_once('\n')?;
    Some(body.rsplit_once("```").map_or(body, |(inside, _)| inside))
}

/// The object or list that a sentence introduces.
fn embedded(text: &str) -> Option<Value> {
    let start = text.find(['{', '['])?;
    let mut values = serde_json::Deserializer::from_str(text.get(start..)?).into_iter::<Value>();
    values.next()?.ok()
}

fn shortened(message: &str) -> String {
    const MOST: usize = 300;
    message
        .char_indices()
        .nth(MOST)
        .map_or_else(|| message.to_owned(), |(at, _)| format!("{}…", message.get(..at).unwrap_or(message)))
}

/// How deep a value nests: 0 for a plain one. Parsers bound it, so walking it level by level is enough.
#[must_use]
pub fn depth(value: &Value) -> usize {
    let mut level: Vec<&Value> = vec![value];
    let mut depth = 0;
    loop {
        let mut next = Vec::new();
        for value in level {
            match value {
                Value::Array(items) => next.extend(items.iter()),
                Value::Object(fields) => next.extend(fields.values()),
                _ => {}
            }
        }
        if next.is_empty() {
            return depth;
        }
        depth += 1;
        level = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> JsonSchema {
        JsonSchema::compile(&json!({
            "type": "object", "required": ["chapters"],
            "properties": {"chapters": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["title"],
                "properties": {"title": {"type": "string"}}}}},
        }))
        .unwrap()
    }

    #[test]
    fn json_is_found_bare_in_a_fence_and_between_sentences() {
        let wanted = json!({"chapters": [{"title": "One"}]});
        let bare = wanted.to_string();
        for text in [
            bare.clone(),
            format!("```json\n{bare}\n```"),
            format!("Here you are:\n\n```\n{bare}\n```\nEnjoy!"),
            format!("Sure! {bare} Anything else?"),
            format!("\u{feff}{bare}"),
        ] {
            assert_eq!(parse_json_output(&text, Some(&schema())), Ok(wanted.clone()), "{text}");
        }
    }

    #[test]
    fn every_problem_of_an_answer_has_its_place() {
        let answer = r#"{"chapters": [{"title": 1}, {}]}"#;

        let problems = parse_json_output(answer, Some(&schema())).unwrap_err();

        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
    /chapters/0/title: value is not of type "string"
    /chapters/1: "title" is a required property
    "#);
    }

    #[test]
    fn text_without_json_is_a_problem() {
        assert!(parse_json_output("I would rather not.", None).is_err());
        assert!(parse_json_output("", None).is_err());
        assert!(parse_json_output("{\"cut\": ", None).is_err());
    }

    #[test]
    fn a_schema_cannot_reach_outside_itself() {
        assert!(JsonSchema::compile(&json!({"$ref": "https://example.invalid/schema.json"})).is_err());
        assert!(JsonSchema::compile(&json!({"$ref": "file:///etc/passwd"})).is_err());
        assert!(JsonSchema::compile(&json!({"type": "strin"})).is_err());
        assert!(JsonSchema::compile(&json!("string")).is_err());
    }
}

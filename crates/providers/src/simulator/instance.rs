//! Instances of a JSON Schema: as much of the standard as prompts use.

use serde_json::{Map, Value, json};

use super::{prose::Prose, words::number_before};

/// Schemas may refer to themselves.
const MAX_DEPTH: usize = 12;
/// The most values of one instance: lists of lists of lists grow fast.
const MAX_VALUES: usize = 20_000;
/// The most items of one list.
const MAX_ITEMS: usize = 64;

/// An instance of `schema`.
pub(super) fn of_schema(schema: &Value, prose: &mut Prose<'_>) -> Value {
    Generator { root: schema, prose, left: MAX_VALUES }.value(schema, "", 0)
}

/// A JSON object when nobody said which.
pub(super) fn of_anything(prose: &mut Prose<'_>) -> Value {
    json!({
        "title": prose.title(),
        "summary": prose.sentence(),
        "points": [prose.sentence(), prose.sentence(), prose.sentence()],
    })
}

struct Generator<'a, 'p, 'q> {
    root: &'a Value,
    prose: &'p mut Prose<'q>,
    left: usize,
}

impl<'a> Generator<'a, '_, '_> {
    /// An instance of `schema`, which is the property `name`.
    fn value(&mut self, schema: &'a Value, name: &str, depth: usize) -> Value {
        let schema = self.resolved(schema);
        if depth > MAX_DEPTH || self.left == 0 {
            return Value::Null;
        }
        self.left -= 1;
        if let Some(fixed) = schema.get("const") {
            return fixed.clone();
        }
        if let Some(choices) = schema.get("enum").and_then(Value::as_array) {
            let pick = self.prose.below(choices.len());
            return choices.get(pick).cloned().unwrap_or(Value::Null);
        }
        if let Some(first) = ["anyOf", "oneOf"].iter().find_map(|of| first_useful(schema.get(of)?)) {
            return self.value(first, name, depth + 1);
        }
        match kind_of(schema) {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, name, depth),
            "integer" => self.integer(schema, name),
            "number" => self.number(schema),
            "boolean" => Value::Bool(self.prose.below(2) == 1),
            "null" => Value::Null,
            _ => Value::String(self.string(schema, name)),
        }
    }

    fn resolved(&self, mut schema: &'a Value) -> &'a Value {
        for _ in 0..MAX_DEPTH {
            let Some(reference) = schema.get("$ref").and_then(Value::as_str) else { break };
            let Some(target) = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)) else {
                break;
            };
            schema = target;
        }
        schema
    }

    fn object(&mut self, schema: &'a Value, depth: usize) -> Value {
        let mut made = Map::new();
        let parts = schema.get("allOf").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for part in std::iter::once(schema).chain(parts) {
            let part = self.resolved(part);
            for (name, property) in part.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let value = self.value(property, name, depth + 1);
                made.insert(name.clone(), value);
            }
        }
        Value::Object(made)
    }

    fn array(&mut self, schema: &'a Value, name: &str, depth: usize) -> Value {
        let least = bound(schema, "minItems").unwrap_or(0);
        let most = bound(schema, "maxItems").unwrap_or(MAX_ITEMS).min(MAX_ITEMS).max(least);
        let stem = name.trim_end_matches('s').to_lowercase();
        let asked = if stem.is_empty() { None } else { number_before(self.prose.prompt, &stem) };
        let count = asked.unwrap_or_else(|| 3 + self.prose.below(3)).clamp(least, most);
        let any = &Value::Null;
        let item = schema.get("items").unwrap_or(any);
        (0..count).map(|_| self.value(item, &stem, depth + 1)).collect()
    }

    fn integer(&mut self, schema: &Value, name: &str) -> Value {
        let whole = |field: &str| schema.get(field).and_then(Value::as_f64).map(|number| number as i64);
        let step = whole("multipleOf").unwrap_or(1).max(1);
        let least = whole("minimum").or(whole("exclusiveMinimum").map(|limit| limit.saturating_add(1)));
        let most = whole("maximum").or(whole("exclusiveMaximum").map(|limit| limit.saturating_sub(1)));
        let words = name.to_lowercase().contains("word");
        let (low, span) = match (least, most) {
            (Some(low), Some(high)) => (low, high.saturating_sub(low).clamp(0, 1000)),
            (Some(low), None) => (low, 20),
            (None, Some(high)) => (high.saturating_sub(20), 20),
            (None, None) if words => (120, 180),
            (None, None) => (1, 20),
        };
        let first = low.saturating_add((step - low.rem_euclid(step)) % step);
        let steps = low.saturating_add(span).saturating_sub(first) / step;
        let pick = self.prose.below(usize::try_from(steps).unwrap_or(0).saturating_add(1));
        json!(first.saturating_add(step.saturating_mul(i64::try_from(pick).unwrap_or(0))))
    }

    fn number(&mut self, schema: &Value) -> Value {
        let real = |field: &str| schema.get(field).and_then(Value::as_f64);
        let low = real("minimum").or(real("exclusiveMinimum"));
        let high = real("maximum").or(real("exclusiveMaximum"));
        let (low, high) = match (low, high) {
            (Some(low), Some(high)) => (low, high.max(low)),
            (Some(low), None) => (low, low + 10.0),
            (None, Some(high)) => (high - 10.0, high),
            (None, None) => (0.0, 10.0),
        };
        // Never on the edges, which may be excluded.
        let part = f64::from(u32::try_from(1 + self.prose.below(98)).unwrap_or(50)) / 100.0;
        json!(low + (high - low) * part)
    }

    fn string(&mut self, schema: &Value, name: &str) -> String {
        match schema.get("format").and_then(Value::as_str) {
            Some("date") => return "2026-03-14".to_owned(),
            Some("date-time") => return "2026-03-14T09:26:53.000Z".to_owned(),
            Some("time") => return "09:26:53Z".to_owned(),
            Some("email") => return format!("{}@example.com", ascii(&self.prose.word())),
            Some("uri" | "url") => return format!("https://example.com/{}", ascii(&self.prose.word())),
            Some("uuid") => return format!("00000000-0000-4000-8000-{:012x}", self.prose.below(1 << 40)),
            _ => {}
        }
        let name = name.to_lowercase();
        let is = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        let is_word = ["id", "key", "tag", "slug", "keyword", "category"].contains(&name.as_str());
        let text = if is_word {
            ascii(&self.prose.word())
        } else if is(&["title", "heading", "headline", "name", "chapter", "topic"]) {
            self.prose.title()
        } else if is(&["text", "body", "content", "markdown"]) {
            self.prose.words(60)
        } else {
            self.prose.sentence()
        };
        self.fitted(schema, text)
    }

    fn fitted(&mut self, schema: &Value, mut text: String) -> String {
        let least = bound(schema, "minLength").unwrap_or(0).min(100_000);
        while text.chars().count() < least {
            text.push(' ');
            text.push_str(&self.prose.sentence());
        }
        match bound(schema, "maxLength") {
            Some(most) => text.chars().take(most).collect(),
            None => text,
        }
    }
}

/// The first alternative that is more than `null`.
fn first_useful(alternatives: &Value) -> Option<&Value> {
    let all = alternatives.as_array()?;
    all.iter().find(|one| one.get("type").and_then(Value::as_str) != Some("null")).or_else(|| all.first())
}

fn kind_of(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => {
            kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null")
        }
        _ if schema.get("properties").is_some() || schema.get("allOf").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

fn bound(schema: &Value, field: &str) -> Option<usize> {
    schema.get(field).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok())
}

fn ascii(word: &str) -> String {
    let ascii: String = word.chars().filter(char::is_ascii_alphanumeric).collect();
    if ascii.is_empty() { "topic".to_owned() } else { ascii }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(schema: &Value, prompt: &str) -> Value {
        of_schema(schema, &mut Prose::new(11, prompt))
    }

    #[test]
    fn an_outline_gets_the_chapters_the_prompt_asks_for() {
        let schema = json!({"type": "object", "required": ["title", "chapters"], "properties": {
            "title": {"type": "string"},
            "chapters": {"type": "array", "minItems": 1, "maxItems": 12, "items": {"$ref": "#/$defs/chapter"}},
        }, "$defs": {"chapter": {"type": "object", "properties": {
            "title": {"type": "string", "maxLength": 40}, "summary": {"type": "string"},
            "words": {"type": "integer", "minimum": 100, "maximum": 200, "multipleOf": 50},
            "level": {"enum": ["easy", "hard"]}, "weight": {"type": "number", "minimum": 0, "maximum": 1},
            "optional": {"type": ["null", "boolean"]},
        }}}});

        let made = make(&schema, "Plan 5 chapters about garden ponds.");

        let chapters = made["chapters"].as_array().unwrap();
        assert_eq!(chapters.len(), 5);
        for chapter in chapters {
            assert!(chapter["title"].as_str().unwrap().chars().count() <= 40);
            assert!(chapter["summary"].as_str().unwrap().ends_with('.'));
            assert!([100, 150, 200].contains(&chapter["words"].as_i64().unwrap()), "{chapter}");
            assert!(["easy", "hard"].contains(&chapter["level"].as_str().unwrap()));
            assert!((0.0..=1.0).contains(&chapter["weight"].as_f64().unwrap()));
            assert!(chapter["optional"].is_boolean());
        }
        let titles: std::collections::BTreeSet<_> = chapters.iter().map(|one| one["title"].to_string()).collect();
        assert_eq!(titles.len(), 5);
    }

    #[test]
    fn bounds_win_over_the_prompt() {
        let schema =
            json!({"type": "array", "minItems": 2, "maxItems": 3, "items": {"type": "string", "minLength": 300}});
        let wrapped = json!({"type": "object", "properties": {"tips": schema}});

        let made = make(&wrapped, "Give me 40 tips.");

        let tips = made["tips"].as_array().unwrap();
        assert_eq!(tips.len(), 3);
        assert!(tips.iter().all(|tip| tip.as_str().unwrap().len() >= 300));
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let schema = json!({"type": "object", "properties": {"next": {"$ref": "#"}}});

        assert!(make(&schema, "x").is_object());
        assert!(make(&json!({"$ref": "#"}), "x").is_string());
    }
}

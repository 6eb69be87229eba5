//! What a template may read of a value whose JSON Schema is known.

use serde_json::Value;

/// What a schema says about one place in the value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape<'a> {
    /// Described by this part of the schema.
    Known(&'a Value),
    /// Anything may be there.
    Open,
    /// No such field; the known fields of that place are in the schema part given.
    Missing(&'a Value),
}

impl<'a> Shape<'a> {
    /// The names of the fields a schema part lists.
    #[must_use]
    pub fn listed(part: &'a Value) -> Vec<&'a str> {
        part.get("properties").and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name.as_str()).collect()
    }
}

/// The place that `path` leads to, beginning at `schema`; references inside the schema are followed.
#[must_use]
pub fn shape_at<'a>(root: &'a Value, part: &'a Value, path: &[&str]) -> Shape<'a> {
    let mut part = part;
    for name in path {
        match step(root, part, name) {
            Shape::Known(next) => part = next,
            other => return other,
        }
    }
    Shape::Known(resolved(root, part))
}

/// What the schema says about the items of the list that `part` describes.
#[must_use]
pub fn items_of<'a>(root: &'a Value, part: &'a Value) -> Shape<'a> {
    resolved(root, part).get("items").filter(|items| items.is_object()).map_or(Shape::Open, Shape::Known)
}

fn step<'a>(root: &'a Value, part: &'a Value, name: &str) -> Shape<'a> {
    let part = resolved(root, part);
    if let Some(next) = part.get("properties").and_then(|fields| fields.get(name)) {
        return Shape::Known(next);
    }
    if let Some(next) = part.get("additionalProperties").filter(|next| next.is_object()) {
        return Shape::Known(next);
    }
    let open = part.get("additionalProperties").is_some_and(|additional| additional != &Value::Bool(false));
    let composed = ["patternProperties", "allOf", "anyOf", "oneOf", "$ref", "$dynamicRef", "if"];
    if open || composed.iter().any(|keyword| part.get(keyword).is_some()) {
        return Shape::Open;
    }
    // A schema that lists no fields promises nothing, but says of a text or a number that there are none.
    let plain = part.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "object");
    if part.get("properties").is_some() || plain { Shape::Missing(part) } else { Shape::Open }
}

/// Follows `$ref` inside the document, a bounded number of times.
fn resolved<'a>(root: &'a Value, part: &'a Value) -> &'a Value {
    let mut part = part;
    for _ in 0..16 {
        let target = part.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
        match target.and_then(|pointer| root.pointer(pointer)) {
            Some(next) => part = next,
            None => break,
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_found_through_references_and_missing_ones_are_known() {
        let schema = json!({
            "type": "object",
            "properties": {"lead": {"$ref": "#/$defs/person"}, "free": {"type": "object"}, "name": {"type": "string"}},
            "$defs": {"person": {"type": "object", "properties": {"age": {"type": "integer"}}}},
        });

        assert!(matches!(shape_at(&schema, &schema, &["lead", "age"]), Shape::Known(_)));
        assert!(
            matches!(shape_at(&schema, &schema, &["lead", "agee"]), Shape::Missing(part) if Shape::listed(part) == ["age"])
        );
        assert!(matches!(shape_at(&schema, &schema, &["free", "any", "thing"]), Shape::Open));
        assert!(matches!(shape_at(&schema, &schema, &["name", "first"]), Shape::Missing(_)));
    }
}

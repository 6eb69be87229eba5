//! The JSON Schema (draft 2020-12) that a form publishes.

use serde_json::{Map, Value, json};

use super::{Choice, DEFAULT_LINE_LENGTH, DEFAULT_TEXT_LENGTH, Field, FieldKind, InputForm};

impl InputForm {
    /// The schema of the input object, for forms, clients and editors.
    #[must_use]
    pub fn json_schema(&self) -> Value {
        let properties: Map<String, Value> =
            self.fields.iter().map(|field| (field.name.clone(), field_schema(field))).collect();
        let needed = self.fields.iter().filter(|field| field.required && field.default.is_none());
        let required: Vec<&str> = needed.map(|field| field.name.as_str()).collect();
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        })
    }
}

fn field_schema(field: &Field) -> Value {
    let mut schema = match field.kind.unwrap_or(FieldKind::Text) {
        FieldKind::Text | FieldKind::Textarea => json!({"type": "string"}),
        FieldKind::Email => json!({"type": "string", "format": "email"}),
        FieldKind::Url => json!({"type": "string", "format": "uri", "pattern": "^https?://"}),
        FieldKind::Date => json!({"type": "string", "format": "date"}),
        FieldKind::Number if field.integer => json!({"type": "integer"}),
        FieldKind::Number => json!({"type": "number"}),
        FieldKind::Checkbox => json!({"type": "boolean"}),
        FieldKind::Select => choices(field.options.as_deref().unwrap_or_default()),
        FieldKind::Multiselect => json!({
            "type": "array", "uniqueItems": true, "items": choices(field.options.as_deref().unwrap_or_default()),
        }),
    };
    if let Value::Object(parts) = &mut schema {
        describe(field, parts);
        limit(field, parts);
    }
    schema
}

fn describe(field: &Field, parts: &mut Map<String, Value>) {
    parts.insert("title".to_owned(), json!(field.label.as_deref().unwrap_or(&field.name)));
    if let Some(help) = &field.help {
        parts.insert("description".to_owned(), json!(help));
    }
    if let Some(default) = &field.default {
        parts.insert("default".to_owned(), default.clone());
    }
}

fn limit(field: &Field, parts: &mut Map<String, Value>) {
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            parts.insert(name.to_owned(), value);
        }
    };
    match field.kind {
        Some(kind) if kind.is_text() => {
            put("minLength", field.least_length().map(Value::from));
            put("maxLength", Some(field.most_length().into()));
        }
        Some(FieldKind::Number) => {
            put("minimum", field.min.map(Value::from));
            put("maximum", field.max.map(Value::from));
        }
        Some(FieldKind::Multiselect) if field.required => put("minItems", Some(1.into())),
        _ => {}
    }
}

fn choices(options: &[Choice]) -> Value {
    if options.iter().all(|option| option.label.is_none()) {
        let values: Vec<&str> = options.iter().map(|option| option.value.as_str()).collect();
        return json!({"type": "string", "enum": values});
    }
    let named = options.iter();
    let named: Vec<Value> = named
        .map(|option| json!({"const": option.value, "title": option.label.as_deref().unwrap_or(&option.value)}))
        .collect();
    json!({"type": "string", "oneOf": named})
}

impl Field {
    /// The fewest characters of an answer, if any number is demanded.
    pub(super) fn least_length(&self) -> Option<u64> {
        self.min_length.or(self.required.then_some(1))
    }

    /// The most characters of an answer.
    pub(super) fn most_length(&self) -> u64 {
        let default = if self.kind == Some(FieldKind::Textarea) { DEFAULT_TEXT_LENGTH } else { DEFAULT_LINE_LENGTH };
        self.max_length.unwrap_or(default)
    }
}

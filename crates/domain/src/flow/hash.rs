//! A stable name for what a node does, so that a finished unit is inherited only by a node that would do the same.

use std::fmt::Write as _;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::document::{Flow, Node};

/// SHA-256, as hex, of what a node does: its id, type and settings, with the flow's defaults, without its title and model.
///
/// The model is left out on purpose: a resume may continue with another one and keep what is finished.
#[must_use]
pub fn definition_hash(flow: &Flow, node: &Node) -> String {
    let mut definition = serde_json::to_value(node).unwrap_or(Value::Null);
    if let Some(fields) = definition.as_object_mut() {
        fields.remove("title");
        fields.remove("model");
        if fields.contains_key("prompt") {
            let defaults = &flow.defaults;
            let temperature = defaults.temperature.map(Value::from);
            for (name, value) in [("temperature", temperature), ("maxTokens", defaults.max_tokens.map(Value::from))] {
                if let Some(value) = value {
                    fields.entry(name).or_insert(value);
                }
            }
        }
    }
    let mut text = String::new();
    write_canonical(&definition, &mut text);
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// JSON with sorted keys and no white space, whatever order the map keeps.
fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            text.push('{');
            for name in names {
                let _ = write!(text, "{}:", Value::from(name.as_str()));
                write_canonical(fields.get(name).unwrap_or(&Value::Null), text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write_canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        plain => {
            let _ = write!(text, "{plain}");
        }
    }
}

//! From text to a typed flow, reporting every value that cannot be read, not only the first.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned},
};
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::{
    document::{Edge, ModelSettings, NodeKind},
    problem::{FlowProblem, Problems, below, suggestion},
};

/// The most bytes of a flow document.
pub const MAX_DOCUMENT_BYTES: usize = 4 * 1024 * 1024;
/// How often one part of the document is read again without what could not be read.
const MAX_REPAIRS: usize = 100;

/// The flow as far as it could be read; what could not was reported.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) head: Head,
    pub(crate) nodes: Vec<DraftNode>,
    pub(crate) edges: Vec<Edge>,
}

/// Everything but nodes and edges.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Head {
    pub(crate) schema_version: Option<u64>,
    pub(crate) name: String,
    pub(crate) title: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) defaults: ModelSettings,
    pub(crate) max_parallel: Option<u32>,
}

/// A node of which parts may be missing.
#[derive(Debug)]
pub(crate) struct DraftNode {
    pub(crate) id: String,
    pub(crate) title: Option<String>,
    pub(crate) kind: Option<NodeKind>,
}

/// Reads YAML or JSON text as a document; a key that stands twice is an error.
///
/// # Errors
/// The place and the reason why it cannot be read.
pub fn read(text: &str) -> Result<Value, FlowProblem> {
    let problem = |pointer: String, code, message: String| FlowProblem { pointer, code, message, hint: None };
    if text.len() > MAX_DOCUMENT_BYTES {
        let message = format!("a flow document has at most {} MB", MAX_DOCUMENT_BYTES / 1_048_576);
        return Err(problem(String::new(), "document_too_long", message));
    }
    if text.trim_start().starts_with('{') {
        let mut json = serde_json::Deserializer::from_str(text);
        let Unique(value) = serde_path_to_error::deserialize(&mut json)
            .map_err(|error| problem(pointer(error.path().iter()), "syntax", error.inner().to_string()))?;
        json.end().map_err(|error| problem(String::new(), "syntax", error.to_string()))?;
        return Ok(value);
    }
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    match serde_saphyr::from_str_with_options::<Unique>(text, options) {
        Ok(Unique(value)) => Ok(value),
        Err(error) => {
            let message = error.to_string().replace(", set DuplicateKeyPolicy in Options if acceptable", "");
            Err(problem(String::new(), "syntax", message.trim().to_owned()))
        }
    }
}

/// Types a document part by part.
pub(crate) fn draft(document: &Value, problems: &mut Problems) -> Draft {
    let Value::Object(fields) = document else {
        problems.add("", "wrong_type", "a flow is an object with `schemaVersion`, `name`, `nodes` and `edges`");
        return Draft { head: Head::default(), nodes: Vec::new(), edges: Vec::new() };
    };
    let mut fields = fields.clone();
    let nodes = list(fields.remove("nodes"), "/nodes", problems);
    let edges = list(fields.remove("edges"), "/edges", problems);
    let head = gather::<Head>(Value::Object(fields), "", problems).unwrap_or_default();
    let nodes = nodes.into_iter().enumerate().map(|(at, node)| draft_node(node, &format!("/nodes/{at}"), problems));
    let nodes = nodes.collect();
    let edges = edges.into_iter().enumerate();
    let edges = edges.map(|(at, edge)| gather(edge, &format!("/edges/{at}"), problems).unwrap_or_default()).collect();
    Draft { head, nodes, edges }
}

fn list(value: Option<Value>, place: &str, problems: &mut Problems) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        Some(_) => {
            problems.add(place, "wrong_type", format!("`{}` is a list", place.trim_start_matches('/')));
            Vec::new()
        }
        None => Vec::new(),
    }
}

fn draft_node(node: Value, place: &str, problems: &mut Problems) -> DraftNode {
    let Value::Object(mut fields) = node else {
        problems.add(place, "wrong_type", "a node is an object with `id` and `type`");
        return DraftNode { id: String::new(), title: None, kind: None };
    };
    let id = text(&mut fields, "id", place, problems);
    let title = text(&mut fields, "title", place, problems);
    let kind = text(&mut fields, "type", place, problems);
    let config = Value::Object(fields);
    let kind = match kind.as_deref() {
        Some("input") => gather(config, place, problems).map(NodeKind::Input),
        Some("generate") => gather(config, place, problems).map(NodeKind::Generate),
        Some("chapters") => gather(config, place, problems).map(NodeKind::Chapters),
        Some("output") => gather(config, place, problems).map(NodeKind::Output),
        Some(unknown) => {
            let hint = suggestion(unknown, NodeKind::NAMES);
            let message = format!("there is no node type `{unknown}`");
            problems.add_with_hint(below(place, "type"), "unknown_node_type", message, hint);
            None
        }
        None => {
            problems.add_missing(below(place, "type"), "the node says no `type`");
            None
        }
    };
    if id.is_none() {
        problems.add_missing(below(place, "id"), "the node says no `id`");
    }
    DraftNode { id: id.unwrap_or_default(), title, kind }
}

fn text(fields: &mut Map<String, Value>, name: &str, place: &str, problems: &mut Problems) -> Option<String> {
    match fields.remove(name) {
        Some(Value::String(text)) => Some(text),
        Some(_) => {
            problems.add(below(place, name), "wrong_type", format!("`{name}` is a text"));
            None
        }
        None => None,
    }
}

/// Reads a value; what cannot be read is reported, taken out, and the rest is read again.
fn gather<T: DeserializeOwned>(mut value: Value, place: &str, problems: &mut Problems) -> Option<T> {
    // Taking an item out of a list moves those behind it: their first places are needed for the pointers.
    let mut removed: Vec<(String, usize)> = Vec::new();
    for _ in 0..MAX_REPAIRS {
        let error = match serde_path_to_error::deserialize::<_, T>(&value) {
            Ok(read) => return Some(read),
            Err(error) => error,
        };
        let steps: Vec<Segment> = error.path().iter().cloned().collect();
        report(&steps, &error.inner().to_string(), place, &removed, problems);
        let (Some(last), parent) = (steps.last(), steps.get(..steps.len().saturating_sub(1)).unwrap_or_default())
        else {
            return None;
        };
        let parent = pointer(parent.iter());
        match (value.pointer_mut(&parent), last) {
            (Some(Value::Object(fields)), Segment::Map { key }) => {
                fields.remove(key)?;
            }
            (Some(Value::Array(items)), Segment::Seq { index }) if *index < items.len() => {
                items.remove(*index);
                let first = first_place(&removed, &parent, *index);
                removed.push((parent, first));
            }
            _ => return None,
        }
    }
    None
}

fn report(steps: &[Segment], message: &str, place: &str, removed: &[(String, usize)], problems: &mut Problems) {
    let mut at = String::new();
    let mut shown = place.to_owned();
    for step in steps {
        let first = match step {
            Segment::Seq { index } => first_place(removed, &at, *index).to_string(),
            Segment::Map { key } => key.clone(),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => "?".to_owned(),
        };
        at = below(&at, step_name(step));
        shown = below(&shown, first);
    }
    let quoted = |start: &str| message.strip_prefix(start).and_then(|rest| rest.split('`').next());
    let known = || message.split("expected").nth(1).unwrap_or("").split('`').skip(1).step_by(2);
    if let Some(field) = quoted("unknown field `") {
        let hint = suggestion(field, known());
        problems.add_with_hint(shown, "unknown_field", format!("there is no field `{field}` here"), hint);
    } else if let Some(word) = quoted("unknown variant `") {
        let hint = suggestion(word, known());
        problems.add_with_hint(shown, "unknown_value", format!("`{word}` is not known here"), hint);
    } else {
        problems.add(shown, "wrong_type", message.to_owned());
    }
}

fn first_place(removed: &[(String, usize)], list: &str, index: usize) -> usize {
    let mut gone: Vec<usize> = removed.iter().filter(|(parent, _)| parent == list).map(|(_, at)| *at).collect();
    gone.sort_unstable();
    gone.into_iter().fold(index, |place, at| if at <= place { place + 1 } else { place })
}

fn step_name(step: &Segment) -> String {
    match step {
        Segment::Seq { index } => index.to_string(),
        Segment::Map { key } => key.clone(),
        Segment::Enum { variant } => variant.clone(),
        Segment::Unknown => "?".to_owned(),
    }
}

fn pointer<'a>(steps: impl Iterator<Item = &'a Segment>) -> String {
    steps.fold(String::new(), |pointer, step| below(&pointer, step_name(step)))
}

/// A JSON value in whose objects no key stands twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> de::Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can hold")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if fields.contains_key(&key) {
                return Err(de::Error::custom(format!("the key `{key}` stands twice")));
            }
            let Unique(value) = entries.next_value()?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

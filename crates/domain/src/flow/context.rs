//! What templates read: the input and the outputs of finished nodes. Shared between the calls of one execution, never copied.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use minijinja::value::{Object, Serde, Value};
use serde::{Deserialize, Serialize};

use super::form::InputForm;

/// One finished item of a `chapters` node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chapter {
    /// Its title.
    pub title: String,
    /// Its text, Markdown.
    pub text: String,
}

/// What a node leaves for those that come after it.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeOutput {
    /// Prose.
    Text(String),
    /// Data.
    Json(serde_json::Value),
    /// The items of a `chapters` node, in order.
    Chapters(Vec<Chapter>),
}

/// The values of one execution that templates may read. Cloning shares them.
#[derive(Debug, Clone)]
pub struct RunContext(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    input: Value,
    /// Per node: what `nodes.<id>` is, once it is finished.
    nodes: Box<[OnceLock<Value>]>,
    index: Arc<HashMap<String, usize>>,
}

impl RunContext {
    /// The context at the start of an execution. `input` is the checked input; unanswered fields read as nothing.
    pub(super) fn new(form: &InputForm, index: Arc<HashMap<String, usize>>, input: &serde_json::Value) -> Self {
        let answer = |name: &str| input.get(name).map_or(Value::from(()), |value| Value::from(Serde(value)));
        let input = Value::from_pairs(form.fields.iter().map(|field| (field.name.clone(), answer(&field.name))));
        let nodes = (0..index.len()).map(|_| OnceLock::new()).collect();
        Self(Arc::new(Shared { input, nodes, index }))
    }

    /// Makes a finished node's output readable. Only the first output of a node counts: a finished node never changes.
    pub fn set_output(&self, node: usize, output: NodeOutput) {
        let value = match output {
            NodeOutput::Text(text) => Value::from(Arc::<str>::from(text)),
            NodeOutput::Json(value) => Value::from(Serde(value)),
            NodeOutput::Chapters(chapters) => chapters.into_iter().map(chapter).collect(),
        };
        self.set(node, value);
    }

    /// The input node's output is the input itself.
    pub(super) fn set_input_output(&self, node: usize) {
        self.set(node, self.0.input.clone());
    }

    /// Whether a node's output is there.
    #[must_use]
    pub fn has_output(&self, node: usize) -> bool {
        self.0.nodes.get(node).is_some_and(|slot| slot.get().is_some())
    }

    pub(super) fn output(&self, node: usize) -> Option<Value> {
        self.0.nodes.get(node)?.get()?.get_attr("output").ok()
    }

    fn set(&self, node: usize, output: Value) {
        if let Some(slot) = self.0.nodes.get(node) {
            // A second output is refused by the cell: that is the rule, not a fault.
            let _ = slot.set(Value::from_object(NodeView { output }));
        }
    }

    /// What a template of a plain node reads.
    pub(super) fn scope(&self) -> Value {
        Value::from_object(Scope { run: self.clone(), item: None })
    }

    /// What a template of one item reads.
    pub(super) fn item_scope(&self, item: ItemScope) -> Value {
        Value::from_object(Scope { run: self.clone(), item: Some(item) })
    }
}

fn chapter(chapter: Chapter) -> Value {
    let Chapter { title, text } = chapter;
    Value::from_pairs([("title", Value::from(title)), ("text", Value::from(Arc::<str>::from(text)))])
}

/// The variables of one item.
#[derive(Debug, Clone)]
pub(super) struct ItemScope {
    pub(super) item: Value,
    pub(super) index: usize,
    pub(super) total: usize,
    /// Absent while titles are made.
    pub(super) previous: Option<String>,
}

/// The root of what a template sees.
#[derive(Debug)]
struct Scope {
    run: RunContext,
    item: Option<ItemScope>,
}

impl Object for Scope {
    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        match (key, &self.item) {
            ("input", _) => Some(self.run.0.input.clone()),
            ("nodes", _) => Some(Value::from_object(Nodes(Arc::clone(&self.run.0)))),
            ("item", Some(scope)) => Some(scope.item.clone()),
            ("index", Some(scope)) => Some(scope.index.into()),
            ("number", Some(scope)) => Some((scope.index + 1).into()),
            ("total", Some(scope)) => Some(scope.total.into()),
            ("previous", Some(scope)) => scope.previous.as_deref().map(Value::from),
            _ => None,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }
}

/// `nodes`: finds a node's view by its id.
#[derive(Debug)]
struct Nodes(Arc<Shared>);

impl Object for Nodes {
    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.0.nodes.get(*self.0.index.get(key)?)?.get().cloned()
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }
}

/// `nodes.<id>`.
#[derive(Debug)]
struct NodeView {
    output: Value,
}

impl Object for NodeView {
    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        (key == "output").then(|| self.output.clone())
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }
}

//! Flows: the document, its rules, its form, its graph, and the compiled form that executors run.
//!
//! Read in this order: `document` (what people write), `form`, `read` and `problem` (from text, telling what is wrong),
//! `compile` with `structure`, `node_rules`, `form_rules` and `variables` (the rules), `compiled`, `context` and `rendering` (what runs), `walk`.

mod compile;
mod compiled;
mod context;
mod document;
mod form;
mod form_rules;
mod graph;
mod hash;
mod node_rules;
mod problem;
mod read;
mod rendering;
mod structure;
mod variables;
mod walk;

use serde_json::{Value, json};

pub use compile::is_flow_name;
pub use compiled::{Assembly, Call, ChapterItem, ChapterPlan, CompiledFlow, CompiledNode, Part, Prompt, Work};
pub use context::{Chapter, NodeOutput, RunContext};
pub use document::*;
pub use form::{
    Choice, DEFAULT_LINE_LENGTH, DEFAULT_TEXT_LENGTH, Field, FieldKind, FieldProblem, InputForm, MAX_FIELDS,
    MAX_OPTIONS,
};
pub use graph::{Ancestors, Graph};
pub use hash::definition_hash;
pub(crate) use problem::similar;
pub use problem::{FlowProblem, explain};
pub use read::{MAX_DOCUMENT_BYTES, read};
pub use walk::{Outcome, Walk};

/// Reads and checks a flow written as YAML or JSON.
///
/// # Errors
/// Every problem of the document.
pub fn validate(text: &str) -> Result<Flow, Vec<FlowProblem>> {
    let document = read(text).map_err(|problem| vec![problem])?;
    validate_document(&document)
}

/// Checks a flow that is a JSON value already.
///
/// # Errors
/// Every problem of the document.
pub fn validate_document(document: &Value) -> Result<Flow, Vec<FlowProblem>> {
    CompiledFlow::from_document(document).map(CompiledFlow::into_flow)
}

/// The model of each node that calls one, with the pointer to where it is named: for the check that they exist.
#[must_use]
pub fn models(flow: &Flow) -> Vec<(String, String)> {
    let calls = flow.nodes.iter().enumerate().filter_map(|(at, node)| {
        let own = match &node.kind {
            NodeKind::Generate(generate) => generate.model.as_ref(),
            NodeKind::Chapters(chapters) => chapters.model.as_ref(),
            NodeKind::Input(_) | NodeKind::Output(_) => return None,
        };
        let default = || flow.defaults.model.as_ref().map(|model| ("/defaults/model".to_owned(), model));
        own.map(|model| (format!("/nodes/{at}/model"), model)).or_else(default)
    });
    let mut models: Vec<(String, String)> = calls.map(|(pointer, model)| (pointer, model.clone())).collect();
    models.dedup();
    models.sort();
    models.dedup();
    models
}

/// The model of one node: its own, or the flow's default. Reads any document, also one that is not valid any more.
#[must_use]
pub fn model_of<'a>(document: &'a Value, node: &str) -> Option<&'a str> {
    let nodes = document.get("nodes").and_then(Value::as_array)?;
    let node = nodes.iter().find(|one| one.get("id").and_then(Value::as_str) == Some(node))?;
    node.get("model").or_else(|| document.pointer("/defaults/model")).and_then(Value::as_str)
}

/// The same document with another model for every call: as the default, and instead of every node's own.
#[must_use]
pub fn with_default_model(document: &Value, model: &str) -> Value {
    let mut document = document.clone();
    if let Some(nodes) = document.get_mut("nodes").and_then(Value::as_array_mut) {
        for node in nodes.iter_mut().filter_map(Value::as_object_mut) {
            node.remove("model");
        }
    }
    if let Some(fields) = document.as_object_mut() {
        match fields.get_mut("defaults").and_then(Value::as_object_mut) {
            Some(defaults) => drop(defaults.insert("model".to_owned(), json!(model))),
            None => drop(fields.insert("defaults".to_owned(), json!({"model": model}))),
        }
    }
    document
}

//! From a document to a compiled flow, reporting every problem on the way.

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;

use super::{
    compiled::{CompiledFlow, CompiledNode, Work},
    document::{Flow, MAX_EDGES, MAX_NODES, MAX_PARALLEL, ModelSettings, Node, NodeKind, SCHEMA_VERSION},
    form::InputForm,
    form_rules, hash, node_rules,
    problem::{FlowProblem, Problems, below},
    read::{Draft, draft, read},
    structure::Structure,
    variables::Scopes,
};
use crate::template::TemplateSet;

/// Everything the rules need, and where they put what they find.
pub(super) struct Rules<'a> {
    pub(super) draft: &'a Draft,
    pub(super) structure: &'a Structure,
    pub(super) scopes: &'a Scopes,
    pub(super) templates: TemplateSet,
    pub(super) problems: Problems,
}

impl CompiledFlow {
    /// Compiles a flow written as YAML or JSON.
    ///
    /// # Errors
    /// Every problem of the document.
    pub fn from_text(text: &str) -> Result<Self, Vec<FlowProblem>> {
        Self::from_document(&read(text).map_err(|problem| vec![problem])?)
    }

    /// Compiles a flow that is a JSON value already.
    ///
    /// # Errors
    /// Every problem of the document.
    pub fn from_document(document: &Value) -> Result<Self, Vec<FlowProblem>> {
        let mut problems = Problems::default();
        let draft = draft(document, &mut problems);
        check_head(&draft, &mut problems);
        if draft.nodes.len() > MAX_NODES || draft.edges.len() > MAX_EDGES {
            let message = format!("a flow has at most {MAX_NODES} nodes and {MAX_EDGES} edges");
            problems.add("/nodes", "too_many", message);
            return Err(problems.into_vec());
        }
        let structure = Structure::check(&draft, &mut problems);
        let scopes = Scopes::new(&draft, &structure, &mut problems);
        let mut rules =
            Rules { draft: &draft, structure: &structure, scopes: &scopes, templates: TemplateSet::new(), problems };
        if let Some(form) = structure.input.and_then(|node| form_of(&draft, node)) {
            form_rules::check(form, structure.input.unwrap_or_default(), &mut rules.problems);
        }
        let works: Vec<Option<Work>> =
            (0..draft.nodes.len()).map(|node| node_rules::compile(&mut rules, node)).collect();
        let Rules { templates, problems, .. } = rules;
        let (input, output) = (structure.input, structure.output);
        finish(draft, structure, works, templates, problems, input.zip(output))
    }
}

fn form_of(draft: &Draft, node: usize) -> Option<&InputForm> {
    match draft.nodes.get(node)?.kind.as_ref()? {
        NodeKind::Input(form) => Some(form),
        _ => None,
    }
}

fn finish(
    draft: Draft,
    structure: Structure,
    works: Vec<Option<Work>>,
    templates: TemplateSet,
    mut problems: Problems,
    ends: Option<(usize, usize)>,
) -> Result<CompiledFlow, Vec<FlowProblem>> {
    let works: Option<Vec<Work>> = works.into_iter().collect();
    let nodes = draft.nodes.into_iter().map(|node| Some(Node { id: node.id, title: node.title, kind: node.kind? }));
    let nodes: Option<Vec<Node>> = nodes.collect();
    let (Some(works), Some(nodes), Some((input_node, output_node)), true) = (works, nodes, ends, problems.is_empty())
    else {
        if problems.is_empty() {
            problems.add("", "invalid_flow", "the flow cannot be compiled");
        }
        return Err(problems.into_vec());
    };
    let head = draft.head;
    let flow = Flow {
        schema_version: SCHEMA_VERSION,
        name: head.name,
        title: head.title,
        description: head.description,
        defaults: head.defaults,
        max_parallel: head.max_parallel,
        nodes,
        edges: draft.edges,
    };
    let form = match flow.nodes.get(input_node).map(|node| &node.kind) {
        Some(NodeKind::Input(form)) => form.clone(),
        _ => InputForm::default(),
    };
    let compiled = flow.nodes.iter().zip(works).map(|(node, work)| CompiledNode {
        id: Arc::from(node.id.as_str()),
        work,
        definition_hash: hash::definition_hash(&flow, node),
    });
    let nodes = compiled.collect();
    let index: HashMap<String, usize> = structure.index;
    let graph = Arc::new(structure.graph);
    Ok(CompiledFlow { form, input_node, output_node, graph, index: Arc::new(index), nodes, templates, flow })
}

/// `/engines-api/{engine}` would hide an engine of this name behind another path.
const RESERVED_NAMES: [&str; 4] = ["list", "stats", "executions", "stop"];

fn check_head(draft: &Draft, problems: &mut Problems) {
    let head = &draft.head;
    match head.schema_version {
        Some(SCHEMA_VERSION) => {}
        Some(other) => {
            let message = format!("this version reads flows of schema version {SCHEMA_VERSION}, not {other}");
            problems.add("/schemaVersion", "unknown_schema_version", message);
        }
        None => problems.add_missing("/schemaVersion", "the flow says no `schemaVersion`; it is 1"),
    }
    if head.name.is_empty() {
        problems.add_missing("/name", "the flow has no `name`");
    } else if !is_flow_name(&head.name) {
        let message = format!("`{}` cannot be an engine's name", shown(&head.name));
        let hint = "lower-case letters, digits and hyphens, beginning with a letter, at most 63".to_owned();
        problems.add_with_hint("/name", "bad_name", message, hint);
    } else if RESERVED_NAMES.contains(&head.name.as_str()) {
        let message = format!("`{}` is a word of the API's paths and cannot be an engine's name", head.name);
        problems.add("/name", "reserved_name", message);
    }
    for (name, text, most) in [("title", &head.title, 200), ("description", &head.description, 2_000)] {
        if text.as_ref().is_some_and(|text| text.chars().count() > most) {
            problems.add(below("", name), "too_long", format!("`{name}` has at most {most} characters"));
        }
        if text.as_ref().is_some_and(|text| text.contains('\0')) {
            problems.add(below("", name), "bad_text", format!("`{name}` contains U+0000"));
        }
    }
    if head.max_parallel.is_some_and(|most| !(1..=MAX_PARALLEL).contains(&most)) {
        problems.add("/maxParallel", "out_of_range", format!("`maxParallel` is between 1 and {MAX_PARALLEL}"));
    }
    let ModelSettings { model, temperature, max_tokens } = &head.defaults;
    node_rules::check_settings(model.as_deref(), *temperature, *max_tokens, "/defaults", problems);
}

/// Whether an engine can have this name.
#[must_use]
pub fn is_flow_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.ends_with('-')
}

/// A word of the document as it may stand in a message.
pub(super) fn shown(word: &str) -> String {
    let mut shown: String = word.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if word.chars().nth(80).is_some() {
        shown.push('…');
    }
    shown
}

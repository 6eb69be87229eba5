//! The rules of the graph: ids, edges, cycles, the one input, the one output, and that every node matters.

use std::collections::{HashMap, HashSet};

use super::{
    compile::shown,
    document::{Edge, NodeKind},
    graph::{Ancestors, Graph},
    problem::{Problems, suggestion},
    read::Draft,
};

/// The graph of a document with what the other rules need of it.
pub(super) struct Structure {
    pub(super) graph: Graph,
    pub(super) index: HashMap<String, usize>,
    pub(super) ancestors: Ancestors,
    /// The only input node, if there is exactly one.
    pub(super) input: Option<usize>,
    /// The only output node, if there is exactly one.
    pub(super) output: Option<usize>,
    /// Whether "comes before" means something: there is no cycle.
    pub(super) ordered: bool,
}

impl Structure {
    pub(super) fn check(draft: &Draft, problems: &mut Problems) -> Self {
        let index = ids(draft, problems);
        let edges = edges(draft, &index, problems);
        let graph = Graph::new(draft.nodes.len(), edges);
        let input = only(draft, "input", problems);
        let output = only(draft, "output", problems);
        let cycle = graph.cycle();
        let ordered = cycle.is_none();
        if let Some(cycle) = cycle {
            report_cycle(draft, &cycle, problems);
        }
        ends(draft, &graph, problems);
        reach(draft, &graph, input, output, problems);
        Self { ancestors: graph.ancestors(), graph, index, input, output, ordered }
    }
}

fn ids(draft: &Draft, problems: &mut Problems) -> HashMap<String, usize> {
    let mut index = HashMap::new();
    for (at, node) in draft.nodes.iter().enumerate() {
        let pointer = format!("/nodes/{at}/id");
        if node.id.is_empty() {
            if !problems.has(&format!("/nodes/{at}")) {
                problems.add_missing(pointer, "the node has no `id`");
            }
            continue;
        }
        if !is_id(&node.id) {
            let message = format!("`{}` cannot be a node's id", shown(&node.id));
            let hint = "letters, digits and underscores, beginning with a letter, at most 64".to_owned();
            problems.add_with_hint(pointer.clone(), "bad_id", message, hint);
        }
        if let Some(first) = index.get(&node.id) {
            let message = format!("the id `{}` is taken by /nodes/{first}", shown(&node.id));
            problems.add(pointer, "duplicate_id", message);
        } else {
            index.insert(node.id.clone(), at);
        }
    }
    if draft.nodes.is_empty() {
        problems.add_missing("/nodes", "the flow has no nodes");
    }
    index
}

/// Whether a word can stand as a name in templates.
pub(super) fn is_id(word: &str) -> bool {
    word.len() <= 64
        && word.starts_with(|c: char| c.is_ascii_alphabetic())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn edges(draft: &Draft, index: &HashMap<String, usize>, problems: &mut Problems) -> Vec<(usize, usize)> {
    let mut seen: HashSet<&Edge> = HashSet::new();
    let mut found = Vec::new();
    for (at, edge) in draft.edges.iter().enumerate() {
        let mut end = |name: &str, id: &str| {
            let pointer = format!("/edges/{at}/{name}");
            if id.is_empty() {
                problems.add_missing(pointer, format!("the edge has no `{name}`"));
                return None;
            }
            let node = index.get(id).copied();
            if node.is_none() {
                let hint = suggestion(id, index.keys().map(String::as_str));
                problems.add_with_hint(pointer, "unknown_node", format!("there is no node `{}`", shown(id)), hint);
            }
            node
        };
        let (from, to) = (end("from", &edge.from), end("to", &edge.to));
        if !edge.from.is_empty() && edge.from == edge.to {
            problems.add(format!("/edges/{at}"), "cycle", format!("`{}` cannot wait for itself", shown(&edge.from)));
            continue;
        }
        if let (Some(from), Some(to)) = (from, to) {
            if seen.insert(edge) {
                found.push((from, to));
            } else {
                let message = format!("the edge from `{}` to `{}` stands twice", shown(&edge.from), shown(&edge.to));
                problems.add(format!("/edges/{at}"), "duplicate_edge", message);
            }
        }
    }
    found
}

fn only(draft: &Draft, wanted: &'static str, problems: &mut Problems) -> Option<usize> {
    let of_kind = |kind: &Option<NodeKind>| kind.as_ref().is_some_and(|kind| kind.name() == wanted);
    let mut nodes = draft.nodes.iter().enumerate().filter(|(_, node)| of_kind(&node.kind)).map(|(at, _)| at);
    let first = nodes.next();
    let mut more = false;
    for extra in nodes {
        more = true;
        let code = if wanted == "input" { "second_input" } else { "second_output" };
        problems.add(
            format!("/nodes/{extra}"),
            code,
            format!("a flow has one `{wanted}` node, and there is one already"),
        );
    }
    // A node whose type could not be read may be the one.
    let unread = draft.nodes.iter().any(|node| node.kind.is_none());
    if first.is_none() && !unread {
        let code = if wanted == "input" { "no_input" } else { "no_output" };
        problems.add("/nodes", code, format!("the flow has no `{wanted}` node"));
    }
    first.filter(|_| !more)
}

fn report_cycle(draft: &Draft, cycle: &[usize], problems: &mut Problems) {
    let name = |node: &usize| draft.nodes.get(*node).map_or("?", |node| node.id.as_str());
    let names: Vec<&str> = cycle.iter().chain(cycle.first()).take(21).map(name).collect();
    let message = format!("these nodes wait for each other: {}", names.join(" -> "));
    let hint = "take one of the edges out".to_owned();
    problems.add_with_hint("/edges", "cycle", message, hint);
}

fn ends(draft: &Draft, graph: &Graph, problems: &mut Problems) {
    for (at, node) in draft.nodes.iter().enumerate() {
        match &node.kind {
            Some(NodeKind::Input(_)) if !graph.parents(at).is_empty() => {
                problems.add(format!("/nodes/{at}"), "edge_into_input", "nothing comes before the `input` node");
            }
            Some(NodeKind::Output(_)) if !graph.children(at).is_empty() => {
                problems.add(format!("/nodes/{at}"), "edge_out_of_output", "nothing comes after the `output` node");
            }
            _ => {}
        }
    }
}

fn reach(draft: &Draft, graph: &Graph, input: Option<usize>, output: Option<usize>, problems: &mut Problems) {
    let below_input = input.map(|input| graph.reached(input, true));
    let above_output = output.map(|output| graph.reached(output, false));
    let misses = |reached: &Option<Vec<bool>>, node: usize| {
        reached.as_ref().is_some_and(|reached| reached.get(node) == Some(&false))
    };
    // A node without an id cannot stand in an edge: that it has none is told already.
    for (at, node) in draft.nodes.iter().enumerate().filter(|(_, node)| !node.id.is_empty()) {
        let id = shown(&node.id);
        if misses(&below_input, at) {
            let hint = format!("add an edge to `{id}` from the `input` node or from a node after it");
            problems.add_with_hint(format!("/nodes/{at}"), "unreachable", format!("nothing leads to `{id}`"), hint);
        }
        if misses(&above_output, at) {
            let hint = format!("add an edge from `{id}`, or take the node out");
            let message = format!("`{id}` does not lead to the output");
            problems.add_with_hint(format!("/nodes/{at}"), "leads_nowhere", message, hint);
        }
    }
}

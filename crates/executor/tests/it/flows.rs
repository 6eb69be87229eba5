//! The flows of these tests.

use serde_json::{Value, json};

fn flow(nodes: Vec<Value>, edges: &[(&str, &str)]) -> Value {
    let edges: Vec<Value> = edges.iter().map(|(from, to)| json!({"from": from, "to": to})).collect();
    json!({"schemaVersion": 1, "name": "test", "nodes": nodes, "edges": edges})
}

fn form() -> Value {
    json!({"id": "form", "type": "input", "fields": [{"name": "topic", "type": "text", "required": true}]})
}

pub(crate) fn input() -> Value {
    json!({"topic": "herons"})
}

pub(crate) fn generate(id: &str, model: &str, prompt: &str) -> Value {
    json!({"id": id, "type": "generate", "model": model, "prompt": prompt})
}

fn output(sections: Value) -> Value {
    json!({
        "id": "book", "type": "output", "document": {"title": "On {{ input.topic }}"}, "sections": sections,
        "formats": ["md", "html", "txt", "json"],
    })
}

/// One step after the other, each reading the one before.
pub(crate) fn steps(models: &[&str]) -> Value {
    let mut nodes = vec![form()];
    let mut edges = Vec::new();
    let names: Vec<String> = (1..=models.len()).map(|number| format!("step{number}")).collect();
    for (at, model) in models.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| names[before].clone());
        let prompt = before.as_ref().map_or_else(
            || "Write about 60 words on {{ input.topic }}.".to_owned(),
            |before| format!("Go on with about 60 words: {{{{ nodes.{before}.output }}}}"),
        );
        nodes.push(generate(&names[at], model, &prompt));
        edges.push((before.unwrap_or_else(|| "form".to_owned()), names[at].clone()));
    }
    let last = names.last().unwrap().clone();
    nodes.push(output(json!([{"node": last}])));
    edges.push((last, "book".to_owned()));
    let edges: Vec<(&str, &str)> = edges.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    flow(nodes, &edges)
}

/// Three chapters, one after the other or so many at once.
pub(crate) fn chapters(model: &str, parallel: u32) -> Value {
    let chapters = json!({
        "id": "chapters", "type": "chapters", "count": 3, "model": model, "itemTitle": "Part {{ number }}",
        "prompt": "Write chapter {{ number }} of {{ total }} on {{ input.topic }}, about 40 words. {{ previous }}",
        "parallel": parallel,
    });
    // Items made at the same time know nothing of each other.
    let mut chapters = chapters;
    if parallel > 1 {
        chapters["prompt"] = json!("Write chapter {{ number }} of {{ total }} on {{ input.topic }}, about 40 words.");
    }
    flow(vec![form(), chapters, output(json!([{"node": "chapters"}]))], &[("form", "chapters"), ("chapters", "book")])
}

/// Two nodes that do not depend on each other.
pub(crate) fn fork(left: &str, right: &str) -> Value {
    flow(
        vec![
            form(),
            generate("left", left, "About 40 words on {{ input.topic }}, the left side."),
            generate("right", right, "About 40 words on {{ input.topic }}, the right side."),
            output(json!([{"node": "left"}, {"node": "right"}])),
        ],
        &[("form", "left"), ("form", "right"), ("left", "book"), ("right", "book")],
    )
}

/// One node that answers with data.
pub(crate) fn data(model: &str, schema: &Value) -> Value {
    let mut facts = generate("facts", model, "Facts on {{ input.topic }} as JSON.");
    facts["output"] = json!("json");
    facts["schema"] = schema.clone();
    let sections = json!([{"text": "Fact: {{ nodes.facts.output.fact }}"}]);
    flow(vec![form(), facts, output(sections)], &[("form", "facts"), ("facts", "book")])
}

//! The engines we ship validate, take their sample input, and run to the end with any answers that fit.

use std::{fs, path::Path};

use domain::flow::{
    Chapter, CompiledFlow, NodeOutput, Outcome, Work, explain, read, validate_document, with_default_model,
};
use serde_json::{Value, json};

pub(crate) const NAMES: [&str; 3] = ["field-guide", "blog-post", "summarise"];

pub(crate) fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn compiled(name: &str) -> CompiledFlow {
    let text = text(&format!("engines/{name}.yaml"));
    CompiledFlow::from_text(&text).unwrap_or_else(|problems| panic!("{}", explain(&problems, name)))
}

/// An answer that satisfies the examples' schemas.
fn answer(schema: Option<&Value>) -> Value {
    let Some(schema) = schema else { return json!("Some text about it.") };
    match schema["type"].as_str().unwrap() {
        "object" => schema["properties"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, part)| (name.clone(), answer(Some(part))))
            .collect(),
        "array" => (0..schema["minItems"].as_u64().unwrap_or(1)).map(|_| answer(Some(&schema["items"]))).collect(),
        _ => json!("words"),
    }
}

/// Walks a flow as an executor does; returns every user prompt and the assembled parts.
fn run(flow: &CompiledFlow, input: &Value) -> (Vec<String>, domain::flow::Assembly) {
    let input = flow.check_input(input).unwrap();
    let context = flow.context(&input);
    let mut walk = flow.walk([]);
    let mut prompts = Vec::new();
    while let Some(node) = walk.start() {
        match &flow.node(node).unwrap().work {
            Work::Input | Work::Output { .. } => {}
            Work::Generate(call) => {
                prompts.push(flow.render_generate(node, &context).unwrap().user);
                let reply = answer(call.schema.as_ref().map(|schema| schema.document()));
                let reply = reply.as_str().map_or_else(|| reply.to_string(), ToOwned::to_owned);
                context.set_output(node, flow.parse_output(node, &reply).unwrap());
            }
            Work::Chapters { parallel, .. } => {
                let plan = flow.plan_chapters(node, &context).unwrap();
                let mut chapters: Vec<Chapter> = Vec::new();
                for (index, item) in plan.items.iter().enumerate() {
                    let before = chapters.last().filter(|_| *parallel == 1).map(|chapter| chapter.text.as_str());
                    prompts.push(flow.render_chapter(node, &context, &plan, index, before).unwrap().user);
                    chapters.push(Chapter { title: item.title.clone(), text: format!("The text of number {index}.") });
                }
                context.set_output(node, NodeOutput::Chapters(chapters));
            }
        }
        walk.settle(node, Outcome::Completed);
    }
    assert!(walk.is_done() && walk.settled() == flow.nodes().len());
    (prompts, flow.assemble(&context).unwrap())
}

#[test]
fn every_shipped_engine_runs_with_its_sample_input() {
    for name in NAMES {
        let flow = compiled(name);
        let input: Value = serde_json::from_str(&text(&format!("inputs/{name}.json"))).unwrap();

        let (prompts, assembly) = run(&flow, &input);

        assert!(
            prompts.iter().all(|prompt| prompt.contains("bout ") || prompt.contains("headline")),
            "{name}: {prompts:#?}"
        );
        assert!(
            prompts.iter().all(|prompt| !prompt.contains("{{") && !prompt.contains("none")),
            "{name}: {prompts:#?}"
        );
        assert!(!assembly.parts.is_empty() && !assembly.title.is_empty());
    }
}

#[test]
fn an_input_with_only_what_is_required_is_enough() {
    let required = [
        json!({"subject": "clouds"}),
        json!({"point": "Write decisions down at once."}),
        json!({"text": "word ".repeat(20)}),
    ];
    for (name, input) in NAMES.into_iter().zip(required) {
        run(&compiled(name), &input);
    }
}

#[test]
fn the_sample_of_the_start_command_is_the_field_guides() {
    assert_eq!(text("field-guide.json"), text("inputs/field-guide.json"));
}

#[test]
fn a_later_chapter_sees_the_titles_and_the_end_of_what_came_before() {
    let flow = compiled("field-guide");
    let input: Value = serde_json::from_str(&text("field-guide.json")).unwrap();

    let (prompts, assembly) = run(&flow, &input);

    let last = prompts.iter().rfind(|prompt| prompt.contains("Now write chapter 2")).unwrap();
    assert!(last.contains("Already written:\n1. words\n\nThe end of number 1:\nThe text of number 0."), "{last}");
    assert!(last.contains("Research notes for this chapter:\nThe text of number 1."), "{last}");
    let titles: Vec<_> = assembly.parts.iter().map(|part| (part.level, part.title.as_deref())).collect();
    assert_eq!(titles, [(1, Some("words")), (1, Some("words")), (1, Some("Before you rely on this guide"))]);
}

#[test]
fn one_line_changes_the_model_of_the_whole_flow() {
    for name in NAMES {
        let document = read(&text(&format!("engines/{name}.yaml"))).unwrap();

        let flow = validate_document(&with_default_model(&document, "openai/gpt-5-mini")).unwrap();

        assert_eq!(domain::flow::models(&flow), [("/defaults/model".to_owned(), "openai/gpt-5-mini".to_owned())]);
    }
}

#[test]
fn a_flow_reads_back_from_what_it_writes() {
    for name in NAMES {
        let flow = compiled(name).into_flow();
        let written = serde_json::to_value(&flow).unwrap();
        assert_eq!(validate_document(&written).unwrap(), flow);
    }
}

#[test]
fn the_hash_of_a_node_is_stable_and_does_not_know_the_model() {
    let document = read(&text("engines/field-guide.yaml")).unwrap();
    let hashes = |document: &Value| -> Vec<String> {
        let flow = CompiledFlow::from_document(document).unwrap();
        flow.nodes().iter().map(|node| node.definition_hash.clone()).collect()
    };
    let mut changed = document.clone();
    changed["nodes"][2]["prompt"] = json!("Another prompt, about 20 words.");

    let before = hashes(&document);
    assert_eq!(before, hashes(&with_default_model(&document, "openai/other")));
    let differing: Vec<usize> =
        before.iter().zip(hashes(&changed)).enumerate().filter(|(_, (a, b))| *a != b).map(|(at, _)| at).collect();
    assert_eq!(differing, [2]);
}

#[test]
fn rendering_parses_nothing_again() {
    let flow = compiled("field-guide");
    let input: Value = serde_json::from_str(&text("field-guide.json")).unwrap();
    let context = flow.context(&flow.check_input(&input).unwrap());

    let started = std::time::Instant::now();
    for _ in 0..1_000 {
        flow.render_generate(1, &context).unwrap();
    }

    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

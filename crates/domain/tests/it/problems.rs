//! Every problem of a flow is found at once and told with its place.

use domain::flow::{MAX_NODES, explain, read, validate};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::examples;

fn problems(text: &str) -> String {
    let problems = validate(text).expect_err("the flow has problems");
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// A small good flow, to be broken by the test.
fn flow(change: impl FnOnce(&mut Value)) -> String {
    let mut flow = json!({
        "schemaVersion": 1, "name": "small", "defaults": {"model": "sim/writer"},
        "nodes": [
            {"id": "form", "type": "input", "fields": [
                {"name": "topic", "type": "text", "required": true}, {"name": "chapters", "type": "number", "default": 3}]},
            {"id": "plan", "type": "generate", "prompt": "Plan {{ input.topic }}", "output": "json", "schema": {
                "type": "object", "required": ["chapters"], "properties": {"chapters": {"type": "array", "items": {
                    "type": "object", "properties": {"title": {"type": "string"}}}}}}},
            {"id": "write", "type": "chapters", "over": "nodes.plan.output.chapters", "prompt": "{{ item.title }} {{ previous }}"},
            {"id": "done", "type": "output", "document": {"title": "{{ input.topic }}"}, "sections": [{"node": "write"}], "formats": ["md"]},
        ],
        "edges": [{"from": "form", "to": "plan"}, {"from": "plan", "to": "write"}, {"from": "write", "to": "done"}],
    });
    change(&mut flow);
    flow.to_string()
}

#[test]
fn the_small_flow_is_good() {
    validate(&flow(|_| {})).unwrap();
}

#[test]
fn a_name_that_a_path_of_the_api_has_is_refused_and_so_is_a_nul() {
    for name in ["list", "stats", "executions", "stop"] {
        let found = problems(&flow(|flow| flow["name"] = json!(name)));
        assert!(found.contains("/name"), "{found}");
    }
    let found = problems(&flow(|flow| flow["title"] = json!("a\u{0}b")));
    assert!(found.contains("/title"), "{found}");
}

#[test]
fn a_thoroughly_broken_flow_tells_everything_at_once() {
    let text = r#"
schemaVersion: 2
name: Bad Name
titel: Typo
maxParallel: 0
nodes:
  - id: form
    type: input
    fields:
      - {name: topic, type: txet}
      - {name: "2nd", type: select}
      - {name: topic, type: number, min: 5, max: 1, maxLength: 3, default: many}
      - {type: text, requird: true}
  - id: plan
    type: generate
    model: gpt
    temperature: 3
    maxTokens: 0
    prompt: "{{ input.topik }} {{ nodes.write.output }} {{ nodes.nowhere.output }} {{ topic }} {{ nodes.form.text }}"
    output: json
    schema: {type: strin}
  - id: plan
    type: generate
    prompt: "{{ input.topic | wordz(3) }}"
  - id: write
    type: chapters
    over: nodes.plan.output.chapters
    count: 3
    parallel: 99
    prompt: "{% if %}"
  - type: generat
  - 5
  - id: done
    type: output
    document: {title: ""}
    sections:
      - {node: nobody}
      - {node: form}
      - {node: write, text: both}
      - {}
    formats: [md, epub, md]
edges:
  - {from: form, to: plan}
  - {from: form, to: wirte}
  - {to: done}
  - {from: plan, to: plan}
"#;
    insta::assert_snapshot!(problems(text), @r#"
    /titel: there is no field `titel` here [unknown_field] (did you mean `title`?)
    /nodes/0/fields/0/type: `txet` is not known here [unknown_value] (did you mean `text`?)
    /nodes/0/fields/3/requird: there is no field `requird` here [unknown_field] (did you mean `required`?)
    /nodes/4/type: there is no node type `generat` [unknown_node_type] (did you mean `generate`?)
    /nodes/4/id: the node says no `id` [missing]
    /nodes/5: a node is an object with `id` and `type` [wrong_type]
    /nodes/6/formats/1: `epub` is not known here [unknown_value] (known: html, json, md, txt)
    /schemaVersion: this version reads flows of schema version 1, not 2 [unknown_schema_version]
    /name: `Bad Name` cannot be an engine's name [bad_name] (lower-case letters, digits and hyphens, beginning with a letter, at most 63)
    /maxParallel: `maxParallel` is between 1 and 64 [out_of_range]
    /nodes/2/id: the id `plan` is taken by /nodes/1 [duplicate_id]
    /edges/1/to: there is no node `wirte` [unknown_node] (did you mean `write`?)
    /edges/2/from: the edge has no `from` [missing]
    /edges/3: `plan` cannot wait for itself [cycle]
    /nodes/0: `form` does not lead to the output [leads_nowhere] (add an edge from `form`, or take the node out)
    /nodes/1: `plan` does not lead to the output [leads_nowhere] (add an edge from `plan`, or take the node out)
    /nodes/2: nothing leads to `plan` [unreachable] (add an edge to `plan` from the `input` node or from a node after it)
    /nodes/2: `plan` does not lead to the output [leads_nowhere] (add an edge from `plan`, or take the node out)
    /nodes/3: nothing leads to `write` [unreachable] (add an edge to `write` from the `input` node or from a node after it)
    /nodes/3: `write` does not lead to the output [leads_nowhere] (add an edge from `write`, or take the node out)
    /nodes/6: nothing leads to `done` [unreachable] (add an edge to `done` from the `input` node or from a node after it)
    /nodes/1/schema/type: "strin" is not valid under any of the schemas listed in the 'anyOf' keyword [bad_schema]
    /nodes/0/fields/1/name: `2nd` cannot be a field's name [bad_id] (letters, digits and underscores, beginning with a letter, at most 64)
    /nodes/0/fields/1/options: the field has no `options` to choose from [missing]
    /nodes/0/fields/2/name: the form has a field `topic` already [duplicate_field]
    /nodes/0/fields/2/maxLength: `maxLength` is for texts [not_for_this_type]
    /nodes/0/fields/2/min: `min` is greater than `max` [out_of_range]
    /nodes/0/fields/2/default: the default is no valid answer: the answer is a number [bad_default]
    /nodes/0/fields/3/name: the field has no `name` [missing]
    /nodes/1/model: `gpt` is no model name [bad_model] (a model is named `provider/model-id`)
    /nodes/1/temperature: `temperature` is between 0 and 2 [out_of_range]
    /nodes/1/maxTokens: `maxTokens` is between 1 and 1000000 [out_of_range]
    /nodes/1/prompt: `input.topik`: the form has no field `topik` [unknown_variable] (did you mean `topic`?)
    /nodes/1/prompt: `nodes.form.text`: a node has `output`, not `text` [unknown_variable] (write `nodes.form.output`)
    /nodes/1/prompt: `nodes.nowhere.output`: there is no node `nowhere` [unknown_node] (known: done, form, plan, write)
    /nodes/1/prompt: `nodes.write.output`: `write` does not come before `plan` [not_an_ancestor] (add an edge from `write` to `plan`)
    /nodes/1/prompt: `topic`: there is no such variable here [unknown_variable] (known: input, nodes)
    /nodes/2/model: the node says no `model`, and the flow has no default [missing] (for the whole flow: `defaults: {model: provider/model-id}`)
    /nodes/2/prompt: line 1: there is no filter `wordz` [unknown_filter] (did you mean `words`?)
    /nodes/3/count: a loop has `over` or `count`, not both [over_and_count]
    /nodes/3/parallel: `parallel` is between 1 and 64 [out_of_range]
    /nodes/3/model: the node says no `model`, and the flow has no default [missing] (for the whole flow: `defaults: {model: provider/model-id}`)
    /nodes/3/prompt: line 1: unexpected end of block [template_syntax]
    /nodes/6/document/title: the document has no `title` [missing]
    /nodes/6/sections/0/node: there is no node `nobody` [unknown_node] (known: done, form, plan, write)
    /nodes/6/sections/1/node: `form` does not give a text [section_not_text] (show its fields with `text`, for example `text: "{{ nodes.form.output.field }}"`)
    /nodes/6/sections/2: a section has `node` or `text`, not both [node_and_text]
    /nodes/6/sections/3: the section says neither `node` nor `text` [missing]
    /nodes/6/formats: a format stands twice [duplicate_format]
    "#);
}

#[test]
fn graph_rules() {
    let cycle = flow(|flow| flow["edges"].as_array_mut().unwrap().push(json!({"from": "write", "to": "plan"})));
    insta::assert_snapshot!(problems(&cycle), @"/edges: these nodes wait for each other: write -> plan -> write [cycle] (take one of the edges out)");
    let lonely = flow(|flow| {
        let nodes = flow["nodes"].as_array_mut().unwrap();
        nodes.push(json!({"id": "unreached", "type": "generate", "prompt": "x"}));
        nodes.push(json!({"id": "second", "type": "output", "document": {"title": "x"}, "sections": [{"text": "x"}], "formats": ["txt"]}));
        let edges = flow["edges"].as_array_mut().unwrap();
        edges.push(json!({"from": "unreached", "to": "done"}));
        edges.push(json!({"from": "done", "to": "second"}));
        edges.push(json!({"from": "form", "to": "plan"}));
    });
    insta::assert_snapshot!(problems(&lonely), @r#"
    /edges/5: the edge from `form` to `plan` stands twice [duplicate_edge]
    /nodes/5: a flow has one `output` node, and there is one already [second_output]
    /nodes/3: nothing comes after the `output` node [edge_out_of_output]
    /nodes/4: nothing leads to `unreached` [unreachable] (add an edge to `unreached` from the `input` node or from a node after it)
    "#);
    let dead_end = flow(|flow| {
        flow["nodes"].as_array_mut().unwrap().push(json!({"id": "aside", "type": "generate", "prompt": "x"}));
        flow["edges"].as_array_mut().unwrap().push(json!({"from": "plan", "to": "aside"}));
    });
    insta::assert_snapshot!(problems(&dead_end), @"/nodes/4: `aside` does not lead to the output [leads_nowhere] (add an edge from `aside`, or take the node out)");
    insta::assert_snapshot!(problems("{\"schemaVersion\": 1, \"name\": \"empty\"}"), @r#"
    /nodes: the flow has no nodes [missing]
    /nodes: the flow has no `input` node [no_input]
    /nodes: the flow has no `output` node [no_output]
    "#);
}

#[test]
fn variables_are_known_from_forms_schemas_and_loops() {
    let text = flow(|flow| {
        flow["nodes"][1]["prompt"] = json!("{{ input.chapters.x }} {{ nodes.write.output }} {{ item }} {{ nodes }}");
        flow["nodes"][2]["prompt"] =
            json!("{{ item.titel }} {{ nodes.plan.output.chapter }} {{ number }} {{ nodes['plan'].output }}");
        flow["nodes"][2]["parallel"] = json!(3);
        flow["nodes"][2]["system"] = json!("{{ previous }}");
        flow["nodes"][3]["sections"][0]["title"] = json!("{{ nodes.write.output.title }} {{ index }}");
    });
    insta::assert_snapshot!(problems(&text), @r#"
    /nodes/1/prompt: `input.chapters.x`: the form has no field `chapters.x` [unknown_variable]
    /nodes/1/prompt: `item`: there is no such variable here [unknown_variable] (known: input, nodes)
    /nodes/1/prompt: `nodes`: this names no output [unknown_variable] (write `nodes.<id>.output`)
    /nodes/1/prompt: `nodes.write.output`: `write` does not come before `plan` [not_an_ancestor] (add an edge from `write` to `plan`)
    /nodes/2/system: `previous`: what came before is not known here [previous_not_known] (`previous` is for prompts of loops with `parallel: 1`)
    /nodes/2/prompt: `item.titel`: an item has no field `titel` [unknown_variable] (did you mean `title`?)
    /nodes/2/prompt: `nodes`: this names no output [unknown_variable] (write `nodes.<id>.output`)
    /nodes/2/prompt: `nodes.plan.output.chapter`: the output of `plan` has no field `chapter` [unknown_variable] (did you mean `chapters`?)
    /nodes/3/sections/0/title: `index`: there is no such variable here [unknown_variable] (known: input, nodes)
    /nodes/3/sections/0/title: `nodes.write.output.title`: the output of `write` has no field `title` [unknown_variable]
    "#);
    let not_a_list = flow(|flow| flow["nodes"][2]["over"] = json!("{{ input.chapters }}"));
    insta::assert_snapshot!(problems(&not_a_list), @"/nodes/2/over: `input.chapters` is a number, not a list [not_a_list] (use `count` for a number)");
    let count = flow(|flow| {
        let node = flow["nodes"][2].as_object_mut().unwrap();
        node.remove("over");
        node.insert("count".to_owned(), json!("input.chapters"));
        node.insert("prompt".to_owned(), json!("{{ item.title }}"));
    });
    insta::assert_snapshot!(problems(&count), @"/nodes/2/prompt: `item.title`: an item (a number) has no field `title` [unknown_variable]");
}

#[test]
fn text_that_is_no_document_is_one_problem() {
    for text in ["", "[]", "just words", "a: [1", "{\"a\": 1, \"a\": 2}", "a: 1\na: 2", "{\"a\": 1} x"] {
        assert!(!validate(text).unwrap_err().is_empty(), "{text}");
    }
    insta::assert_snapshot!(read("{\"a\": {\"b\": 1, \"b\": 2}}").unwrap_err().to_string(), @"/a: the key `b` stands twice at line 1 column 18 [syntax]");
    insta::assert_snapshot!(read("a:\n  b: 1\n  b: 2").unwrap_err().to_string(), @"/: duplicate mapping key: b at line 3, column 3 [syntax]");
}

#[test]
fn problems_are_explained_for_a_terminal() {
    let text = flow(|flow| flow["nodes"][1]["prompt"] = json!("{{ input.topik }}"));
    insta::assert_snapshot!(explain(&validate(&text).unwrap_err(), "small.yaml"), @r#"
    error[unknown_variable]: `input.topik`: the form has no field `topik`
      --> small.yaml#/nodes/1/prompt
      help: did you mean `topic`?

    small.yaml: 1 problem
    "#);
}

#[test]
fn a_flow_of_the_greatest_size_is_checked_quickly_and_a_greater_one_refused() {
    let large = |nodes: usize| {
        flow(|flow| {
            let list = flow["nodes"].as_array_mut().unwrap();
            list.truncate(1);
            for at in 1..nodes - 1 {
                list.push(json!({"id": format!("n{at}"), "type": "generate", "prompt": "{{ input.topic }}"}));
            }
            list.push(json!({"id": "done", "type": "output", "document": {"title": "x"}, "sections": [{"node": "n1"}], "formats": ["md"]}));
            flow["edges"] = (1..nodes - 1)
                .flat_map(|at| {
                    [json!({"from": "form", "to": format!("n{at}")}), json!({"from": format!("n{at}"), "to": "done"})]
                })
                .collect();
        })
    };
    assert_eq!(validate(&large(MAX_NODES)).unwrap().nodes.len(), MAX_NODES);
    assert!(problems(&large(MAX_NODES + 1)).contains("too_many"));
}

/// Puts `value` at a random place of the document.
fn damage(document: &mut Value, path: &[prop::sample::Index], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *document = value;
        return;
    };
    match document {
        Value::Array(items) if !items.is_empty() => {
            let at = first.index(items.len());
            damage(&mut items[at], rest, value);
        }
        Value::Object(fields) if !fields.is_empty() => {
            let name = fields.keys().nth(first.index(fields.len())).unwrap().clone();
            damage(&mut fields[&name], rest, value);
        }
        other => *other = value,
    }
}

proptest! {
    #[test]
    fn no_damage_makes_the_check_fall_over_and_every_pointer_leads_somewhere_near(
        path in prop::collection::vec(any::<prop::sample::Index>(), 1..5),
        value in prop::sample::select(vec![Value::Null, json!(-1), json!(1e300), json!(""), json!("{{ x"), json!([]), json!([1]), json!({}), json!({"a": {"b": 1}}), json!(true)]),
        name in prop::sample::select(&examples::NAMES[..]),
    ) {
        let mut document = read(&examples::text(&format!("engines/{name}.yaml"))).unwrap();
        damage(&mut document, &path, value);
        if let Err(problems) = domain::flow::validate_document(&document) {
            for problem in problems {
                let parent = problem.pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
                let grandparent = parent.rsplit_once('/').map_or("", |(parent, _)| parent);
                prop_assert!(document.pointer(parent).or_else(|| document.pointer(grandparent)).is_some(), "{problem}");
            }
        }
    }

    #[test]
    fn no_text_makes_the_reader_fall_over(text in "[ -~\\n]{0,300}") {
        let _ = validate(&text);
    }
}

//! Loops, titles and assembled documents with awkward values.

use domain::flow::{Chapter, CompiledFlow, NodeOutput};
use serde_json::{Value, json};

fn flow(loop_node: Value, output: Value) -> CompiledFlow {
    let document = json!({
        "schemaVersion": 1, "name": "small", "defaults": {"model": "sim/writer", "maxTokens": 100},
        "nodes": [
            {"id": "form", "type": "input", "fields": [
                {"name": "count", "type": "number"}, {"name": "list", "type": "multiselect", "options": ["a", "b", "c"], "default": []},
                {"name": "note", "type": "text"}]},
            loop_node, output,
        ],
        "edges": [{"from": "form", "to": "write"}, {"from": "write", "to": "done"}],
    });
    CompiledFlow::from_document(&document).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn output() -> Value {
    json!({"id": "done", "type": "output", "document": {"title": "{{ input.note }}\n x", "language": "{{ input.note }}"},
        "sections": [{"node": "write", "title": "Part"}, {"text": "{{ nodes.write.output | length }}"}], "formats": ["md"]})
}

#[test]
fn a_count_from_the_input_makes_so_many_items() {
    let flow = flow(
        json!({"id": "write", "type": "chapters", "count": "{{ input.count }}", "prompt": "{{ item }} of {{ total }}"}),
        output(),
    );
    let context = flow.context(&json!({"count": 3}));

    let plan = flow.plan_chapters(1, &context).unwrap();

    let titles: Vec<_> = plan.items.iter().map(|item| item.title.as_str()).collect();
    assert_eq!(titles, ["Chapter 1", "Chapter 2", "Chapter 3"]);
    assert_eq!(flow.render_chapter(1, &context, &plan, 2, Some("before")).unwrap().user, "3 of 3");
    assert!(
        flow.plan_chapters(1, &flow.context(&json!({"count": 1e9})))
            .unwrap_err()
            .to_string()
            .contains("more than 2000")
    );
    assert!(flow.plan_chapters(1, &flow.context(&json!({}))).unwrap_err().to_string().contains("whole number"));
    assert!(flow.render_chapter(1, &context, &plan, 3, None).is_err());
    assert!(flow.render_generate(1, &context).is_err());
}

#[test]
fn an_empty_list_makes_no_items_and_titles_are_one_line() {
    let node = json!({"id": "write", "type": "chapters", "over": "input.list", "itemTitle": "{{ number }}\n{{ item | upper }}", "prompt": "{{ item }}"});
    let flow = flow(node, output());

    assert!(flow.plan_chapters(1, &flow.context(&json!({"list": []}))).unwrap().items.is_empty());
    assert_eq!(flow.plan_chapters(1, &flow.context(&json!({"list": ["b"]}))).unwrap().items[0].title, "1 B");
}

#[test]
fn a_document_has_a_title_whatever_the_template_gives() {
    let flow = flow(json!({"id": "write", "type": "chapters", "over": "input.list", "prompt": "{{ item }}"}), output());
    let context = flow.context(&json!({"list": ["a"]}));
    context.set_output(1, NodeOutput::Chapters(vec![Chapter { title: "One".to_owned(), text: "Text".to_owned() }]));

    let assembly = flow.assemble(&context).unwrap();

    assert_eq!((assembly.title.as_str(), assembly.language.as_str()), ("x", "en"));
    let parts: Vec<_> =
        assembly.parts.iter().map(|part| (part.level, part.title.as_deref(), part.markdown.as_str())).collect();
    assert_eq!(parts, [(1, Some("Part"), ""), (2, Some("One"), "Text"), (1, None, "1")]);
}

#[test]
fn the_first_output_of_a_node_is_the_one_that_counts() {
    let flow = flow(json!({"id": "write", "type": "chapters", "over": "input.list", "prompt": "{{ item }}"}), output());
    let context = flow.context(&json!({}));
    context.set_output(1, NodeOutput::Chapters(Vec::new()));
    context.clone().set_output(1, NodeOutput::Text("late".to_owned()));

    assert!(context.has_output(1));
    assert_eq!(flow.assemble(&context).unwrap().parts.last().unwrap().markdown, "0");
}

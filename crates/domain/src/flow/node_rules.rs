//! The rules of the nodes: models, prompts, loops, documents; what passes is compiled.

use std::collections::BTreeSet;

use super::{
    compile::{Rules, shown},
    compiled::{Call, Items, OutputPlan, SectionPlan, SectionSource, Work},
    document::{
        Chapters, Count, Generate, MAX_ITEMS, MAX_PARALLEL, MAX_PREVIOUS_WORDS, NodeKind, OutputKind, OutputNode,
        SectionSpec,
    },
    problem::{Problems, below, suggestion},
    variables::ItemVariables,
};
use crate::template::{TemplateError, TemplateId};

/// The most tokens a node may ask for.
const MAX_TOKENS: u32 = 1_000_000;

/// What the node does, if there is nothing wrong with it.
pub(super) fn compile(rules: &mut Rules<'_>, node: usize) -> Option<Work> {
    let draft = rules.draft;
    match draft.nodes.get(node)?.kind.as_ref()? {
        NodeKind::Input(_) => Some(Work::Input),
        NodeKind::Generate(generate) => compile_generate(rules, node, generate),
        NodeKind::Chapters(chapters) => compile_chapters(rules, node, chapters),
        NodeKind::Output(output) => compile_output(rules, node, output),
    }
}

fn compile_generate(rules: &mut Rules<'_>, node: usize, generate: &Generate) -> Option<Work> {
    let place = format!("/nodes/{node}");
    let json = generate.output == OutputKind::Json;
    if generate.schema.is_some() && !json {
        let hint = "say `output: json`, or take the schema out".to_owned();
        rules.problems.add_with_hint(
            below(&place, "schema"),
            "schema_without_json",
            "a schema is for `output: json`",
            hint,
        );
    }
    let schema = rules.scopes.schema(node);
    let settings = (generate.model.as_deref(), generate.temperature, generate.max_tokens);
    let mut call = compile_call(rules, node, settings, generate.system.as_deref(), &generate.prompt, None)?;
    call.json = json;
    call.schema = schema;
    Some(Work::Generate(call))
}

fn compile_chapters(rules: &mut Rules<'_>, node: usize, chapters: &Chapters) -> Option<Work> {
    let place = format!("/nodes/{node}");
    let items = compile_items(rules, node, chapters);
    let parallel = chapters.parallel.0;
    if !(1..=MAX_PARALLEL).contains(&parallel) {
        let message = format!("`parallel` is between 1 and {MAX_PARALLEL}");
        rules.problems.add(below(&place, "parallel"), "out_of_range", message);
    }
    if chapters.context.previous_words > MAX_PREVIOUS_WORDS {
        let message = format!("`previousWords` is at most {MAX_PREVIOUS_WORDS}");
        rules.problems.add(below(&place, "context/previousWords").replace("~1", "/"), "out_of_range", message);
    }
    let (_, variables) = items.as_ref().map_or((None, BTreeSet::new()), |(items, names)| (Some(*items), names.clone()));
    let scope = ItemVariables { over: chapters.over.is_some().then_some(variables), previous: parallel == 1 };
    let title_scope = ItemVariables { previous: false, ..scope.clone() };
    let item_title = chapters.item_title.as_deref();
    let item_title =
        item_title.map(|text| template(rules, node, &below(&place, "itemTitle"), text, Some(&title_scope)));
    let settings = (chapters.model.as_deref(), chapters.temperature, chapters.max_tokens);
    let call = compile_call(rules, node, settings, chapters.system.as_deref(), &chapters.prompt, Some(&scope))?;
    Some(Work::Chapters {
        call,
        parallel: parallel as usize,
        items: items?.0,
        item_title: item_title.flatten(),
        previous_words: chapters.context.previous_words as usize,
    })
}

fn compile_items(rules: &mut Rules<'_>, node: usize, chapters: &Chapters) -> Option<(Items, BTreeSet<String>)> {
    let place = format!("/nodes/{node}");
    match (&chapters.over, &chapters.count) {
        (Some(text), None) => {
            let pointer = below(&place, "over");
            let (id, names) = expression(rules, node, &pointer, text)?;
            rules.scopes.check_list(&names, text, &pointer, &mut rules.problems);
            let whole = names.iter().any(|name| name == bare(text));
            Some((Items::Over(id), if whole { names } else { BTreeSet::new() }))
        }
        (None, Some(Count::Fixed(count))) => {
            let fits = usize::try_from(*count).ok().filter(|count| (1..=MAX_ITEMS).contains(count));
            if fits.is_none() {
                let message = format!("`count` is between 1 and {MAX_ITEMS}");
                rules.problems.add(below(&place, "count"), "out_of_range", message);
            }
            Some((Items::Fixed(fits?), BTreeSet::new()))
        }
        (None, Some(Count::Expression(text))) => {
            let (id, _) = expression(rules, node, &below(&place, "count"), text)?;
            Some((Items::Count(id), BTreeSet::new()))
        }
        (Some(_), Some(_)) => {
            rules.problems.add(below(&place, "count"), "over_and_count", "a loop has `over` or `count`, not both");
            None
        }
        (None, None) => {
            if !rules.problems.has(&below(&place, "over")) && !rules.problems.has(&below(&place, "count")) {
                let hint = "for example `over: nodes.outline.output.chapters` or `count: input.chapters`".to_owned();
                rules.problems.add_with_hint(place, "missing", "the loop says neither `over` nor `count`", hint);
            }
            None
        }
    }
}

type Settings<'a> = (Option<&'a str>, Option<f64>, Option<u32>);

fn compile_call(
    rules: &mut Rules<'_>,
    node: usize,
    (model, temperature, max_tokens): Settings<'_>,
    system: Option<&str>,
    prompt: &str,
    items: Option<&ItemVariables>,
) -> Option<Call> {
    let place = format!("/nodes/{node}");
    check_settings(model, temperature, max_tokens, &place, &mut rules.problems);
    let defaults = &rules.draft.head.defaults;
    let model = model.map(ToOwned::to_owned).or_else(|| defaults.model.clone());
    if model.is_none() && !rules.problems.has("/defaults/model") {
        let hint = "for the whole flow: `defaults: {model: provider/model-id}`".to_owned();
        let message = "the node says no `model`, and the flow has no default";
        if !rules.problems.has(&below(&place, "model")) {
            rules.problems.add_with_hint(below(&place, "model"), "missing", message, hint);
        }
    }
    let system = system.map(|text| template(rules, node, &below(&place, "system"), text, items));
    if prompt.trim().is_empty() {
        rules.problems.add_missing(below(&place, "prompt"), "the node has no `prompt`");
        return None;
    }
    let prompt = template(rules, node, &below(&place, "prompt"), prompt, items);
    Some(Call {
        model: model?,
        temperature: temperature.or(defaults.temperature),
        max_tokens: max_tokens.or(defaults.max_tokens),
        json: false,
        schema: None,
        system: system.flatten(),
        prompt: prompt?,
    })
}

/// Checks the settings of a model call, in a node or in the flow's defaults.
pub(super) fn check_settings(
    model: Option<&str>,
    temperature: Option<f64>,
    max_tokens: Option<u32>,
    place: &str,
    problems: &mut Problems,
) {
    if let Some(model) = model.filter(|model| !is_model(model)) {
        let message = format!("`{}` is no model name", shown(model));
        let hint = "a model is named `provider/model-id`".to_owned();
        problems.add_with_hint(below(place, "model"), "bad_model", message, hint);
    }
    if temperature.is_some_and(|temperature| !(0.0..=2.0).contains(&temperature)) {
        problems.add(below(place, "temperature"), "out_of_range", "`temperature` is between 0 and 2");
    }
    if max_tokens.is_some_and(|tokens| !(1..=MAX_TOKENS).contains(&tokens)) {
        problems.add(below(place, "maxTokens"), "out_of_range", format!("`maxTokens` is between 1 and {MAX_TOKENS}"));
    }
}

fn is_model(model: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    model.split_once('/').is_some_and(|(provider, id)| {
        (1..=64).contains(&provider.len())
            && provider.chars().all(plain)
            && (1..=200).contains(&id.len())
            && id.chars().all(|c| plain(c) || matches!(c, '/' | ':' | '@' | '+'))
            && !id.starts_with('/')
            && !id.ends_with('/')
    })
}

fn compile_output(rules: &mut Rules<'_>, node: usize, output: &OutputNode) -> Option<Work> {
    let place = format!("/nodes/{node}");
    let meta = &output.document;
    let document = below(&place, "document");
    if meta.title.trim().is_empty() {
        rules.problems.add_missing(below(&document, "title"), "the document has no `title`");
    }
    let mut line = |name: &str, text: &str| template(rules, node, &below(&document, name), text, None);
    let title = line("title", &meta.title);
    let subtitle = meta.subtitle.as_deref().map(|text| line("subtitle", text));
    let author = meta.author.as_deref().map(|text| line("author", text));
    let language = meta.language.as_deref().map(|text| line("language", text));
    if output.sections.is_empty() {
        rules.problems.add_missing(below(&place, "sections"), "the document has no `sections`");
    }
    let sections = output.sections.iter().enumerate();
    let sections: Vec<Option<SectionPlan>> = sections
        .map(|(at, section)| compile_section(rules, node, section, &format!("{place}/sections/{at}")))
        .collect();
    let formats: BTreeSet<_> = output.formats.iter().copied().collect();
    if formats.is_empty() {
        rules.problems.add_missing(below(&place, "formats"), "the output names no `formats`");
    } else if formats.len() < output.formats.len() {
        rules.problems.add(below(&place, "formats"), "duplicate_format", "a format stands twice");
    }
    let plan = OutputPlan {
        title: title?,
        subtitle: subtitle.flatten(),
        author: author.flatten(),
        language: language.flatten(),
        sections: sections.into_iter().collect::<Option<_>>()?,
    };
    Some(Work::Output { formats: output.formats.clone(), plan })
}

fn compile_section(rules: &mut Rules<'_>, node: usize, section: &SectionSpec, place: &str) -> Option<SectionPlan> {
    let title = section.title.as_deref().map(|text| template(rules, node, &below(place, "title"), text, None));
    let source = match (&section.node, &section.text) {
        (Some(id), None) => SectionSource::Node(section_node(rules, node, id, &below(place, "node"))?),
        (None, Some(text)) => SectionSource::Text(template(rules, node, &below(place, "text"), text, None)?),
        (Some(_), Some(_)) => {
            rules.problems.add(place, "node_and_text", "a section has `node` or `text`, not both");
            return None;
        }
        (None, None) => {
            rules.problems.add_missing(place, "the section says neither `node` nor `text`");
            return None;
        }
    };
    Some(SectionPlan { source, title: title.flatten() })
}

fn section_node(rules: &mut Rules<'_>, node: usize, id: &str, pointer: &str) -> Option<usize> {
    let index = &rules.structure.index;
    let Some(source) = index.get(id).copied() else {
        let hint = suggestion(id, index.keys().map(String::as_str));
        rules.problems.add_with_hint(pointer, "unknown_node", format!("there is no node `{}`", shown(id)), hint);
        return None;
    };
    let kind = rules.draft.nodes.get(source).and_then(|node| node.kind.as_ref());
    let prose = match kind {
        Some(NodeKind::Generate(generate)) => generate.output == OutputKind::Text,
        Some(NodeKind::Chapters(_)) | None => true,
        Some(NodeKind::Input(_) | NodeKind::Output(_)) => false,
    };
    if !prose {
        let hint = format!("show its fields with `text`, for example `text: \"{{{{ nodes.{id}.output.field }}}}\"`");
        let message = format!("`{id}` does not give a text");
        rules.problems.add_with_hint(pointer, "section_not_text", message, hint);
        return None;
    }
    if rules.structure.ordered && !rules.structure.ancestors.contains(node, source) {
        rules.problems.add(pointer, "not_an_ancestor", format!("`{id}` does not come before the output"));
        return None;
    }
    Some(source)
}

/// Parses a template and checks its variables.
fn template(
    rules: &mut Rules<'_>,
    node: usize,
    pointer: &str,
    text: &str,
    items: Option<&ItemVariables>,
) -> Option<TemplateId> {
    match rules.templates.add(text) {
        Ok(id) => {
            let names = rules.templates.variables(id);
            let (draft, structure) = (rules.draft, rules.structure);
            rules.scopes.check(draft, structure, node, &names, items, pointer, &mut rules.problems);
            Some(id)
        }
        Err(error) => refuse(rules, pointer, error),
    }
}

fn expression(
    rules: &mut Rules<'_>,
    node: usize,
    pointer: &str,
    text: &str,
) -> Option<(crate::template::ExpressionId, BTreeSet<String>)> {
    match rules.templates.add_expression(text) {
        Ok(id) => {
            let names = rules.templates.expression_variables(id);
            let (draft, structure) = (rules.draft, rules.structure);
            rules.scopes.check(draft, structure, node, &names, None, pointer, &mut rules.problems);
            Some((id, names))
        }
        Err(error) => refuse(rules, pointer, error),
    }
}

fn refuse<T>(rules: &mut Rules<'_>, pointer: &str, error: TemplateError) -> Option<T> {
    rules.problems.add_with_hint(pointer, error.code, error.message, error.hint);
    None
}

/// An expression without the braces people may put around it.
pub(super) fn bare(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix("{{").and_then(|inner| inner.strip_suffix("}}")).unwrap_or(text).trim()
}

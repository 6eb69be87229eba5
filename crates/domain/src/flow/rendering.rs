//! What runs of a compiled flow: prompts, items, answers and the finished document's parts, from the values of one execution.

use minijinja::Value;

use super::{
    compiled::{
        Assembly, Call, ChapterItem, ChapterPlan, CompiledFlow, Items, Part, Prompt, SectionPlan, SectionSource, Work,
    },
    context::{ItemScope, NodeOutput, RunContext},
    document::MAX_ITEMS,
};
use crate::{
    schema::{SchemaProblem, parse_json_output},
    template::{RenderError, TemplateId, last_words},
};

impl CompiledFlow {
    /// The prompt of a `generate` node.
    ///
    /// # Errors
    /// [`RenderError`] when a template cannot be rendered with these values.
    pub fn render_generate(&self, node: usize, context: &RunContext) -> Result<Prompt, RenderError> {
        match self.work(node)? {
            Work::Generate(call) => self.prompt(node, call, &context.scope()),
            _ => Err(self.wrong_node(node, "generate")),
        }
    }

    /// The items of a `chapters` node with their titles.
    ///
    /// # Errors
    /// [`RenderError`] when the list or number cannot be read from these values, or is too long.
    pub fn plan_chapters(&self, node: usize, context: &RunContext) -> Result<ChapterPlan, RenderError> {
        let Work::Chapters { items, item_title, .. } = self.work(node)? else {
            return Err(self.wrong_node(node, "chapters"));
        };
        let values = self.items(node, *items, context)?;
        let total = values.len();
        let items = values.into_iter().enumerate().map(|(index, value)| {
            let title = match item_title {
                Some(template) => {
                    let scope = ItemScope { item: value.clone(), index, total, previous: None };
                    let what = format!("`itemTitle` of node `{}`", self.id(node));
                    one_line(&self.templates.render(*template, context.item_scope(scope), &what)?)
                }
                None => natural_title(&value),
            };
            let title = if title.is_empty() { format!("Chapter {}", index + 1) } else { title };
            Ok(ChapterItem { title, value })
        });
        Ok(ChapterPlan { items: items.collect::<Result<_, RenderError>>()? })
    }

    /// The prompt of one item. `before` is the text of the item before it, where items are made one after the other.
    ///
    /// # Errors
    /// [`RenderError`] when a template cannot be rendered with these values.
    pub fn render_chapter(
        &self,
        node: usize,
        context: &RunContext,
        plan: &ChapterPlan,
        index: usize,
        before: Option<&str>,
    ) -> Result<Prompt, RenderError> {
        let (Work::Chapters { call, previous_words, .. }, Some(item)) = (self.work(node)?, plan.items.get(index))
        else {
            return Err(self.wrong_node(node, "chapters"));
        };
        let previous = Some(previous(plan, index, before, *previous_words));
        let scope = ItemScope { item: item.value.clone(), index, total: plan.items.len(), previous };
        self.prompt(node, call, &context.item_scope(scope))
    }

    /// Reads the answer of a `generate` node: as it is, or as JSON that satisfies the node's schema.
    ///
    /// # Errors
    /// Every way in which a JSON answer does not satisfy the schema.
    pub fn parse_output(&self, node: usize, text: &str) -> Result<NodeOutput, Vec<SchemaProblem>> {
        match self.node(node).map(|node| &node.work) {
            Some(Work::Generate(call)) if call.json => {
                parse_json_output(text, call.schema.as_deref()).map(NodeOutput::Json)
            }
            _ => Ok(NodeOutput::Text(text.to_owned())),
        }
    }

    /// The parts of the finished document, once every node before the output has its output.
    ///
    /// # Errors
    /// [`RenderError`] when a template cannot be rendered with these values.
    pub fn assemble(&self, context: &RunContext) -> Result<Assembly, RenderError> {
        let Work::Output { plan, .. } = self.work(self.output_node)? else {
            return Err(self.wrong_node(self.output_node, "output"));
        };
        let line = |template: TemplateId, what: &str| {
            let what = format!("the {what} of node `{}`", self.id(self.output_node));
            self.templates.render(template, context.scope(), &what).map(|text| one_line(&text))
        };
        let optional = |template: Option<TemplateId>, what: &str| {
            let text = template.map(|template| line(template, what)).transpose()?;
            Ok(text.filter(|text| !text.is_empty()))
        };
        let mut parts = Vec::new();
        for section in &plan.sections {
            let title = optional(section.title, "section title")?;
            self.add_section(section, title, context, &mut parts)?;
        }
        let title = Some(line(plan.title, "title")?).filter(|title| !title.is_empty());
        Ok(Assembly {
            title: title.unwrap_or_else(|| self.flow.title.clone().unwrap_or_else(|| self.flow.name.clone())),
            subtitle: optional(plan.subtitle, "subtitle")?,
            author: optional(plan.author, "author")?,
            language: optional(plan.language, "language")?.unwrap_or_else(|| "en".to_owned()),
            parts,
        })
    }

    fn add_section(
        &self,
        section: &SectionPlan,
        title: Option<String>,
        context: &RunContext,
        parts: &mut Vec<Part>,
    ) -> Result<(), RenderError> {
        let output = match section.source {
            SectionSource::Text(template) => {
                let what = format!("a section of node `{}`", self.id(self.output_node));
                self.templates.render(template, context.scope(), &what)?.into()
            }
            SectionSource::Node(node) => context.output(node).unwrap_or_default(),
        };
        if let Some(text) = output.as_str() {
            parts.push(Part { title, level: 1, markdown: text.to_owned() });
            return Ok(());
        }
        let level = if title.is_some() { 2 } else { 1 };
        parts.extend(title.map(|title| Part { title: Some(title), level: 1, markdown: String::new() }));
        for chapter in output.try_iter().into_iter().flatten() {
            let read = |name: &str| chapter.get_attr(name).ok().and_then(|text| text.as_str().map(ToOwned::to_owned));
            parts.push(Part { title: read("title"), level, markdown: read("text").unwrap_or_default() });
        }
        Ok(())
    }

    fn prompt(&self, node: usize, call: &Call, scope: &Value) -> Result<Prompt, RenderError> {
        let render = |template: TemplateId, what: &str| {
            let what = format!("`{what}` of node `{}`", self.id(node));
            self.templates.render(template, scope.clone(), &what)
        };
        let system = call.system.map(|template| render(template, "system")).transpose()?;
        Ok(Prompt { system: system.filter(|text| !text.trim().is_empty()), user: render(call.prompt, "prompt")? })
    }

    fn items(&self, node: usize, items: Items, context: &RunContext) -> Result<Vec<Value>, RenderError> {
        let what = |field: &str| format!("`{field}` of node `{}`", self.id(node));
        let refuse = |field: &str, message: String| RenderError { what: what(field), message };
        let evaluate = |id, field: &str| self.templates.evaluate(id, context.scope(), &what(field));
        let (values, field) = match items {
            Items::Fixed(count) => ((1..=count).map(Value::from).collect::<Vec<_>>(), "count"),
            Items::Count(expression) => {
                let value = evaluate(expression, "count")?;
                let count = whole_number(&value);
                let count = count.ok_or_else(|| refuse("count", "it does not give a whole number".to_owned()))?;
                ((1..=count.min(MAX_ITEMS + 1)).map(Value::from).collect(), "count")
            }
            Items::Over(expression) => {
                let value = evaluate(expression, "over")?;
                let list = if value.kind() == minijinja::value::ValueKind::Seq { value.try_iter().ok() } else { None };
                let list = list.ok_or_else(|| refuse("over", format!("it gives a {}, not a list", value.kind())))?;
                (list.take(MAX_ITEMS + 1).collect(), "over")
            }
        };
        if values.len() > MAX_ITEMS {
            return Err(refuse(field, format!("it gives more than {MAX_ITEMS} items")));
        }
        Ok(values)
    }

    fn work(&self, node: usize) -> Result<&Work, RenderError> {
        self.node(node).map(|node| &node.work).ok_or_else(|| self.wrong_node(node, "known"))
    }

    fn id(&self, node: usize) -> &str {
        self.node(node).map_or("?", |node| &node.id)
    }

    fn wrong_node(&self, node: usize, wanted: &str) -> RenderError {
        RenderError { what: format!("node `{}`", self.id(node)), message: format!("it is no {wanted} node or item") }
    }
}

/// What came before an item: the titles so far and the end of the last text; empty before the first.
fn previous(plan: &ChapterPlan, index: usize, before: Option<&str>, words: usize) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (number, item) in plan.items.iter().take(index).enumerate() {
        let _ = writeln!(text, "{}. {}", number + 1, item.title);
    }
    let tail = before.map_or("", |before| last_words(before, words));
    if !tail.is_empty() {
        let _ = write!(text, "\nThe end of number {index}:\n{tail}");
    }
    text
}

fn natural_title(value: &Value) -> String {
    let named = value.get_attr("title").ok().and_then(|title| title.as_str().map(one_line));
    named.or_else(|| value.as_str().map(one_line)).unwrap_or_default()
}

/// A title has one line, whatever a model put into it.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn whole_number(value: &Value) -> Option<usize> {
    if let Some(text) = value.as_str() {
        return text.trim().parse().ok();
    }
    value.as_usize()
}

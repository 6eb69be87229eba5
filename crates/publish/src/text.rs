//! The document as plain text, wrapped at 72 characters.

use comrak::{
    Arena, Node,
    arena_tree::NodeEdge,
    nodes::{ListType, NodeValue},
};

use crate::{Document, tree};

/// How many characters a line has.
const WIDTH: usize = 72;

pub(crate) fn render(document: &Document) -> String {
    let mut page = Page::default();
    page.heading(&document.title, '=');
    for line in [&document.subtitle, &document.author].into_iter().flatten() {
        page.block(line, "", "", false);
    }
    for section in &document.sections {
        if let Some(title) = &section.title {
            page.out.push('\n');
            page.heading(title, if section.level == 1 { '=' } else { '-' });
        }
        let arena = Arena::new();
        let root = tree::parse(&arena, &section.markdown, &tree::options());
        write_section(root, &mut page);
    }
    page.out
}

/// The text so far.
#[derive(Default)]
struct Page {
    out: String,
}

impl Page {
    fn heading(&mut self, title: &str, underline: char) {
        self.separate();
        let start = self.out.len();
        wrap(title, "", "", &mut self.out);
        let written = self.out.get(start..).unwrap_or_default();
        let width = written.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        self.out.extend(std::iter::repeat_n(underline, width));
        self.out.push('\n');
    }

    /// Writes a block; a close one follows the one before without an empty line.
    fn block(&mut self, text: &str, first: &str, rest: &str, close: bool) {
        if !text.trim().is_empty() {
            if !close {
                self.separate();
            }
            wrap(text, first, rest, &mut self.out);
        }
    }

    /// One empty line between blocks.
    fn separate(&mut self) {
        if !self.out.is_empty() && !self.out.ends_with("\n\n") {
            self.out.push('\n');
        }
    }
}

/// What surrounds the block that is being read.
#[derive(Default)]
struct Place {
    /// The words of the open block.
    words: String,
    /// One per open quote or list item: what its first line and its other lines begin with.
    margins: Vec<(String, String)>,
    /// The open lists.
    lists: Vec<OpenList>,
    /// Where the open links lead.
    links: Vec<String>,
    /// The cells of the open table row.
    cells: Vec<String>,
}

/// A list whose items are being read.
struct OpenList {
    /// The next number of an ordered list.
    number: Option<usize>,
    /// Whether its items stand close together.
    tight: bool,
    /// Whether an item of it, or of the list around it, was written.
    begun: bool,
}

/// Reads the tree by its edges, not by recursion: its depth is the model's choice.
fn write_section<'a>(root: Node<'a>, page: &mut Page) {
    let mut place = Place::default();
    for edge in root.traverse() {
        match edge {
            NodeEdge::Start(node) => enter(&node.data.borrow().value, &mut place, page),
            NodeEdge::End(node) => leave(&node.data.borrow().value, &mut place, page),
        }
    }
}

fn enter(value: &NodeValue, place: &mut Place, page: &mut Page) {
    match value {
        NodeValue::Text(text) => place.words.push_str(text),
        NodeValue::Code(code) => place.words.push_str(&code.literal),
        NodeValue::HtmlInline(html) => place.words.push_str(html),
        NodeValue::SoftBreak => place.words.push(' '),
        NodeValue::LineBreak => place.words.push('\n'),
        NodeValue::Link(link) => place.links.push(link.url.clone()),
        NodeValue::FootnoteReference(reference) => place.words.push_str(&format!("[{}]", reference.ix)),
        NodeValue::HtmlBlock(html) => write_block(&html.literal, false, place, page),
        NodeValue::CodeBlock(code) => {
            page.separate();
            for line in code.literal.lines() {
                page.out.push_str(&format!("    {line}\n"));
            }
        }
        NodeValue::ThematicBreak => page.block("* * *", "    ", "    ", false),
        NodeValue::BlockQuote => place.margins.push(("> ".to_owned(), "> ".to_owned())),
        NodeValue::List(list) => {
            let number = (list.list_type == ListType::Ordered).then_some(list.start);
            place.lists.push(OpenList { number, tight: list.tight, begun: !place.lists.is_empty() });
        }
        NodeValue::Item(_) | NodeValue::TaskItem(_) => {
            let number = place.lists.last_mut().and_then(|list| list.number.as_mut()).map(|number| {
                *number += 1;
                *number - 1
            });
            let mark = match (number, value) {
                (Some(number), _) => format!("{number}. "),
                (None, NodeValue::TaskItem(item)) => if item.symbol.is_some() { "[x] " } else { "[ ] " }.to_owned(),
                (None, _) => "- ".to_owned(),
            };
            let rest = " ".repeat(mark.len());
            place.margins.push((mark, rest));
        }
        NodeValue::FootnoteDefinition(note) => place.margins.push((format!("[{}] ", note.name), "    ".to_owned())),
        _ => {}
    }
}

fn leave(value: &NodeValue, place: &mut Place, page: &mut Page) {
    match value {
        NodeValue::Paragraph => {
            let words = std::mem::take(&mut place.words);
            let close =
                place.lists.last_mut().is_some_and(|list| std::mem::replace(&mut list.begun, true) && list.tight);
            write_block(&words, close, place, page);
        }
        NodeValue::Heading(_) => {
            let words = std::mem::take(&mut place.words);
            page.heading(&words, '-');
        }
        NodeValue::Link(_) => {
            let url = place.links.pop().unwrap_or_default();
            if !url.is_empty() && !place.words.ends_with(&url) && !url.starts_with("mailto:") {
                place.words.push_str(&format!(" ({url})"));
            }
        }
        NodeValue::TableCell => {
            let cell = std::mem::take(&mut place.words);
            place.cells.push(cell.trim().to_owned());
        }
        NodeValue::TableRow(is_header) => {
            let row = std::mem::take(&mut place.cells).join(" | ");
            write_block(&row, !is_header, place, page);
        }
        NodeValue::BlockQuote | NodeValue::Item(_) | NodeValue::TaskItem(_) | NodeValue::FootnoteDefinition(_) => {
            drop(place.margins.pop());
        }
        NodeValue::List(_) => drop(place.lists.pop()),
        _ => {}
    }
}

/// Writes a block inside the open quotes and items; the first block of an item carries its mark.
fn write_block(text: &str, close: bool, place: &mut Place, page: &mut Page) {
    let first: String = place.margins.iter().map(|(first, _)| first.as_str()).collect();
    for (first, rest) in &mut place.margins {
        first.clone_from(rest);
    }
    let rest: String = place.margins.iter().map(|(_, rest)| rest.as_str()).collect();
    page.block(text, &first, &rest, close);
}

/// Breaks a text into lines; a word longer than a line stands alone on its own.
fn wrap(text: &str, first: &str, rest: &str, out: &mut String) {
    let mut margin = first;
    for paragraph in text.split('\n') {
        let mut width = 0;
        for word in paragraph.split_whitespace() {
            let length = word.chars().count();
            if width > 0 && width + 1 + length > WIDTH {
                out.push('\n');
                width = 0;
            }
            if width == 0 {
                out.push_str(margin);
                width = margin.chars().count();
                margin = rest;
            } else {
                out.push(' ');
                width += 1;
            }
            out.push_str(word);
            width += length;
        }
        if width > 0 {
            out.push('\n');
        }
    }
}

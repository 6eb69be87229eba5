//! The document as Markdown.

use std::fmt::Write as _;

use crate::Document;

pub(crate) fn render(document: &Document) -> String {
    let mut out = format!("# {}\n", escaped(&document.title));
    if let Some(subtitle) = &document.subtitle {
        let _ = write!(out, "\n*{}*\n", escaped(subtitle));
    }
    if let Some(author) = &document.author {
        let _ = write!(out, "\n{}\n", escaped(author));
    }
    for section in &document.sections {
        if let Some(title) = &section.title {
            let _ = write!(out, "\n{} {}\n", if section.level == 1 { "##" } else { "###" }, escaped(title));
        }
        if !section.markdown.is_empty() {
            let _ = write!(out, "\n{}\n", section.markdown);
        }
    }
    out
}

/// A title is text: nothing in it is markup.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' | '&' | '|' | '~') {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

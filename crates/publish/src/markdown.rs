//! The document as Markdown.

use std::{borrow::Cow, fmt::Write as _};

use crate::Document;

pub(crate) fn render(document: &Document) -> String {
    let mut out = format!("# {}\n", escaped(&document.title));
    if let Some(subtitle) = &document.subtitle {
        let _ = write!(out, "\n*{}*\n", escaped(subtitle));
    }
    if let Some(author) = &document.author {
        let _ = write!(out, "\n{}\n", escaped(author));
    }
    let with_notes = document.sections.iter().filter(|section| section.markdown.contains("[^")).count();
    for (number, section) in document.sections.iter().enumerate() {
        if let Some(title) = &section.title {
            let _ = write!(out, "\n{} {}\n", if section.level == 1 { "##" } else { "###" }, escaped(title));
        }
        if !section.markdown.is_empty() {
            // Every section numbers its footnotes from 1; in one file their names must differ.
            let markdown = match with_notes {
                0 | 1 => Cow::Borrowed(section.markdown.as_str()),
                _ => Cow::Owned(section.markdown.replace("[^", &format!("[^{}-", number + 1))),
            };
            let _ = write!(out, "\n{markdown}\n");
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

//! What the files promise, whatever models wrote.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::needless_range_loop,
    reason = "test code"
)]

mod files;
mod hostile;

use publish::{Document, Format, Meta, SectionSource, assemble, render};

/// A section as a model gave it.
fn section(title: &str, markdown: &str) -> SectionSource {
    SectionSource { title: Some(title.to_owned()), level: 1, markdown: markdown.to_owned() }
}

fn document(sections: Vec<SectionSource>) -> Document {
    let meta =
        Meta { subtitle: Some("For *everybody*".to_owned()), author: Some("A. Writer".to_owned()), language: None };
    assemble("Mosses & <Lichens>", meta, sections)
}

fn text(document: &Document, format: Format) -> String {
    String::from_utf8(render(document, format).unwrap().bytes).unwrap()
}

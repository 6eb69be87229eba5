//! The document as JSON, for programs.

use serde::Serialize;

use crate::{Document, PublishError};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Published<'a> {
    /// The version of this shape.
    schema_version: u8,
    #[serde(flatten)]
    document: &'a Document,
    words: usize,
}

pub(crate) fn render(document: &Document) -> Result<String, PublishError> {
    let words = document.sections.iter().map(|section| section.markdown.split_whitespace().count()).sum();
    let published = Published { schema_version: 1, document, words };
    let mut text = serde_json::to_string_pretty(&published).map_err(PublishError::Json)?;
    text.push('\n');
    Ok(text)
}

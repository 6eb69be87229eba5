//! Makes files of finished sections: Markdown, HTML, text and JSON.
//!
//! [`assemble`] cleans what models wrote into a [`Document`]; [`render`] makes one file of it. Both are pure: equal documents
//! give equal bytes. Every word of a section is hostile input: nothing in it may execute, load or break a file.
//!
//! A new kind of file is one more [`Format`], one more module, and one more arm in [`render`].

mod clean;
mod html;
mod json;
mod markdown;
mod text;
mod tree;

use std::str::FromStr;

use serde::Serialize;

pub use clean::assemble;

/// A finished text with its title page. Made by [`assemble`], which cleans it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Document {
    /// The title; one line, never empty.
    pub title: String,
    /// A line below the title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subtitle: Option<String>,
    /// Who is named as author.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A language tag (BCP 47) such as `en`.
    pub language: String,
    /// In reading order.
    pub sections: Vec<Section>,
}

/// One part of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    /// Its heading; one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// 1 for a chapter or part, 2 for a chapter inside a part.
    pub level: u8,
    /// Its text, CommonMark with tables, strikethrough, task lists and footnotes. Headings in it stand below the section's.
    pub markdown: String,
}

/// What stands on the title page, as the flow gave it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// A line below the title.
    pub subtitle: Option<String>,
    /// Who is named as author.
    pub author: Option<String>,
    /// A language tag; `en` when absent or malformed.
    pub language: Option<String>,
}

/// One section, as the flow and its models gave it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SectionSource {
    /// Its heading.
    pub title: Option<String>,
    /// 1 or 2; see [`Section::level`].
    pub level: u8,
    /// Its text.
    pub markdown: String,
}

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// Markdown.
    Md,
    /// One self-contained HTML file.
    Html,
    /// Plain text, wrapped.
    Txt,
    /// The document as JSON.
    Json,
}

/// A word that names no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown format; known are md, html, txt and json")]
pub struct UnknownFormat;

impl Format {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Md, Self::Html, Self::Txt, Self::Json];

    /// The word for it, which is also the file's extension.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md => "md",
            Self::Html => "html",
            Self::Txt => "txt",
            Self::Json => "json",
        }
    }

    /// What HTTP says of it.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Md => "text/markdown; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
            Self::Txt => "text/plain; charset=utf-8",
            Self::Json => "application/json",
        }
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(word: &str) -> Result<Self, UnknownFormat> {
        Self::ALL.into_iter().find(|format| format.as_str() == word).ok_or(UnknownFormat)
    }
}

/// A finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The file.
    pub bytes: Vec<u8>,
    /// A name for it: safe in every file system, with the format's extension.
    pub file_name: String,
    /// What HTTP says of it.
    pub media_type: &'static str,
}

/// Why a file could not be made. It concerns this one format only: the others can still be made.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The JSON could not be written.
    #[error("writing the document as JSON")]
    Json(#[source] serde_json::Error),
    /// The HTML of a section could not be written.
    #[error("writing a section as HTML")]
    Html(#[source] std::fmt::Error),
}

/// Makes one file of a document.
///
/// # Errors
/// [`PublishError`] when this format cannot be made.
pub fn render(document: &Document, format: Format) -> Result<Rendered, PublishError> {
    let text = match format {
        Format::Md => markdown::render(document),
        Format::Html => html::render(document)?,
        Format::Txt => text::render(document),
        Format::Json => json::render(document)?,
    };
    let file_name = format!("{}.{}", file_stem(&document.title), format.as_str());
    Ok(Rendered { bytes: text.into_bytes(), file_name, media_type: format.media_type() })
}

/// The title as a file's name: letters and digits of any script, hyphens between.
fn file_stem(title: &str) -> String {
    const MOST_BYTES: usize = 80;
    let mut stem = String::new();
    for character in title.chars().flat_map(char::to_lowercase) {
        if stem.len() + character.len_utf8() > MOST_BYTES {
            break;
        }
        if character.is_alphanumeric() {
            stem.push(character);
        } else if !stem.is_empty() && !stem.ends_with('-') {
            stem.push('-');
        }
    }
    let stem = stem.trim_end_matches('-');
    if stem.is_empty() { "document".to_owned() } else { stem.to_owned() }
}

//! The flow document as people write it: every field, with its meaning and its limits.

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use super::form::InputForm;

/// The version of the document's shape that this code reads.
pub const SCHEMA_VERSION: u64 = 1;
/// How many nodes a flow may have.
pub const MAX_NODES: usize = 2_500;
/// How many edges a flow may have.
pub const MAX_EDGES: usize = 25_000;
/// How many items one `chapters` node may have.
pub const MAX_ITEMS: usize = 2_000;
/// How many model calls of one `chapters` node, or nodes of one execution, may run at the same time.
pub const MAX_PARALLEL: u32 = 64;
/// How many words of the item before may be shown to the next one.
pub const MAX_PREVIOUS_WORDS: u32 = 20_000;

/// A graph of steps that call language models.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// The version of this document's shape: 1.
    pub schema_version: u64,
    /// The engine's name: lower-case letters, digits and hyphens, as in a path.
    pub name: String,
    /// The name people read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What the engine makes, in one or two sentences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Settings of every model call that its node does not say itself: one line changes the model of the whole flow.
    #[serde(skip_serializing_if = "ModelSettings::is_empty")]
    pub defaults: ModelSettings,
    /// How many nodes of one execution may run at the same time (1 = one after the other); no value: as many as are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// The steps.
    pub nodes: Vec<Node>,
    /// What waits for what.
    pub edges: Vec<Edge>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Node {
    /// The name by which templates and edges speak of it: letters, digits and underscores, beginning with a letter.
    pub id: String,
    /// The name people read in progress displays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it does; `type` in the document.
    #[serde(flatten)]
    pub kind: NodeKind,
}

impl Node {
    /// The name people read: the title, else the id.
    #[must_use]
    pub fn display_name(&self) -> &str {
        self.title.as_deref().unwrap_or(&self.id)
    }
}

/// What a node does.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum NodeKind {
    /// The form; its output is the validated input.
    Input(InputForm),
    /// One model call.
    Generate(Generate),
    /// One model call per item of a list.
    Chapters(Chapters),
    /// The finished document and its files.
    Output(OutputNode),
}

impl NodeKind {
    /// The words a document may say under `type`.
    pub const NAMES: [&'static str; 4] = ["input", "generate", "chapters", "output"];

    /// The word under `type`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Input(_) => "input",
            Self::Generate(_) => "generate",
            Self::Chapters(_) => "chapters",
            Self::Output(_) => "output",
        }
    }
}

/// A dependency: `to` starts after `from` has settled, and may read its output.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edge {
    /// The id of the node before.
    pub from: String,
    /// The id of the node after.
    pub to: String,
}

/// Which model answers, and how.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ModelSettings {
    /// `provider/model-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// 0 (always the likeliest word) to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The most tokens one answer may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
}

impl ModelSettings {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether a node answers with prose or with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    /// Prose (Markdown).
    #[default]
    Text,
    /// One JSON value, checked against the node's schema.
    Json,
}

/// One model call.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Generate {
    /// `provider/model-id`, instead of the flow's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// 0 to 2, instead of the flow's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The most tokens the answer may have, instead of the flow's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Template: who the model is and what rules it keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Template: what the model is asked.
    pub prompt: String,
    /// `text` (default) or `json`.
    pub output: OutputKind,
    /// With `json`: the JSON Schema (draft 2020-12) of the answer; templates may then read its fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
}

/// A loop: one model call per item; every item is a checkpoint.
///
/// Its templates also know `item` (the list's element; the number when `count` is used), `index` (from 0), `number`
/// (from 1), `total` and, where items are made one after the other, `previous` (what came before, bounded).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Chapters {
    /// An expression giving the list of items, such as `nodes.outline.output.chapters`. Either this or `count`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    /// How many items there are: a number, or an expression giving one, such as `input.chapters`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<Count>,
    /// Template of an item's title; without it the item's own `title`, or the item itself if it is a text, or its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_title: Option<String>,
    /// `provider/model-id`, instead of the flow's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// 0 to 2, instead of the flow's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The most tokens one item may have, instead of the flow's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Template: who the model is and what rules it keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Template: what the model is asked for this item.
    pub prompt: String,
    /// How much of what came before `previous` shows.
    pub context: ChapterContext,
    /// How many items are made at the same time. 1 (default): one after the other, each knowing what came before.
    pub parallel: Parallel,
}

/// How much of what came before an item is shown to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ChapterContext {
    /// How many of the last words of the item before; the titles of all items before are always shown.
    pub previous_words: u32,
}

impl Default for ChapterContext {
    fn default() -> Self {
        Self { previous_words: 200 }
    }
}

/// How many items are made at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Parallel(pub u32);

impl Default for Parallel {
    fn default() -> Self {
        Self(1)
    }
}

/// How many items a loop has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Count {
    /// Always so many.
    Fixed(u64),
    /// What this expression gives.
    Expression(String),
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountVisitor;
        impl de::Visitor<'_> for CountVisitor {
            type Value = Count;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a whole number, or an expression such as input.chapters")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Count, E> {
                Ok(Count::Fixed(number))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Count, E> {
                Ok(Count::Expression(text.to_owned()))
            }
        }
        deserializer.deserialize_any(CountVisitor)
    }
}

/// The finished document and its files.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct OutputNode {
    /// What stands on the title page.
    pub document: DocumentMeta,
    /// The parts, in reading order.
    pub sections: Vec<SectionSpec>,
    /// The files to make, each its own result.
    pub formats: Vec<FileFormat>,
}

/// What stands on the title page; every field is a template.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct DocumentMeta {
    /// The document's title; also names the files.
    pub title: String,
    /// A line below the title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subtitle: Option<String>,
    /// Who is named as author.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A language tag such as `en` or `pt-BR` (BCP 47); `en` when absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
}

/// One part of the document: either a node's output or a template.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct SectionSpec {
    /// The id of a node: a text is one section, each item of a `chapters` node is a section with its own title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Template of the section's Markdown, instead of `node`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Template of the section's heading; above a `chapters` node it makes a part with the items below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Markdown.
    Md,
    /// One self-contained HTML file.
    Html,
    /// Plain text.
    Txt,
    /// The sections as JSON.
    Json,
}

impl FileFormat {
    /// The word in the document, which is also the file's extension.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md => "md",
            Self::Html => "html",
            Self::Txt => "txt",
            Self::Json => "json",
        }
    }
}

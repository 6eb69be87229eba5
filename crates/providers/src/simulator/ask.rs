//! What a client asks for.

use serde::Deserialize;
use serde_json::Value;

use crate::{ChatRequest, JsonMode};

/// The format of the answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Format {
    Text,
    Object,
    Schema(Value),
}

/// A chat request as far as the simulator cares.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) model: String,
    /// Role and text.
    pub(super) messages: Vec<(String, String)>,
    pub(super) seed: Option<i64>,
    pub(super) max_tokens: Option<usize>,
    pub(super) format: Format,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

#[derive(Deserialize)]
struct WireAsk {
    model: String,
    messages: Vec<WireMessage>,
    seed: Option<i64>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    response_format: Option<WireFormat>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<WireOptions>,
}

#[derive(Deserialize)]
struct WireMessage {
    role: String,
    #[serde(default)]
    content: WireContent,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireContent {
    Text(String),
    Parts(Vec<WirePart>),
    Nothing(()),
}

impl Default for WireContent {
    fn default() -> Self {
        Self::Nothing(())
    }
}

#[derive(Deserialize)]
struct WirePart {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct WireFormat {
    #[serde(rename = "type")]
    kind: String,
    json_schema: Option<WireSchema>,
}

#[derive(Deserialize)]
struct WireSchema {
    #[serde(default)]
    schema: Value,
}

#[derive(Deserialize)]
struct WireOptions {
    #[serde(default)]
    include_usage: bool,
}

impl WireContent {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => parts.into_iter().map(|part| part.text).collect(),
            Self::Nothing(()) => String::new(),
        }
    }
}

impl Ask {
    /// Reads a request body; the error is for the client.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let wire: WireAsk = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let format = match wire.response_format {
            Some(format) if format.kind == "json_schema" => {
                Format::Schema(format.json_schema.map(|schema| schema.schema).unwrap_or_default())
            }
            Some(format) if format.kind == "json_object" => Format::Object,
            _ => Format::Text,
        };
        Ok(Self {
            model: wire.model,
            messages: wire.messages.into_iter().map(|one| (one.role, one.content.into_text())).collect(),
            seed: wire.seed,
            max_tokens: wire.max_completion_tokens.or(wire.max_tokens),
            format,
            stream: wire.stream,
            include_usage: wire.stream_options.is_some_and(|options| options.include_usage),
        })
    }

    /// The last thing the user said: what the text is about.
    pub(super) fn prompt(&self) -> &str {
        let last = self.messages.iter().rev().find(|(role, _)| role == "user").or_else(|| self.messages.last());
        last.map_or("", |(_, text)| text)
    }

    /// What the prompt counts as.
    pub(super) fn prompt_tokens(&self) -> usize {
        self.messages.iter().map(|(_, text)| text.chars().count()).sum::<usize>().div_ceil(4)
    }
}

impl From<&ChatRequest> for Ask {
    fn from(request: &ChatRequest) -> Self {
        Self {
            model: request.model.clone(),
            messages: request.messages.iter().map(|one| (one.role.as_str().to_owned(), one.content.clone())).collect(),
            seed: request.seed,
            max_tokens: request.max_tokens.and_then(|limit| usize::try_from(limit).ok()),
            format: match &request.json {
                JsonMode::Off => Format::Text,
                JsonMode::Object => Format::Object,
                JsonMode::Schema { schema, .. } => Format::Schema((**schema).clone()),
            },
            stream: true,
            include_usage: true,
        }
    }
}

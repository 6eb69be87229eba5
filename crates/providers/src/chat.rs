//! What is asked of a model, in no provider's dialect.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The engine's author: instructions.
    System,
    /// The one who asks.
    User,
    /// The model, earlier.
    Assistant,
}

impl Role {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of the conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// An instruction.
    #[must_use]
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: Role::System, content: content.into() }
    }

    /// A question.
    #[must_use]
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: Role::User, content: content.into() }
    }
}

/// Whether the answer has to be JSON.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum JsonMode {
    /// Text.
    #[default]
    Off,
    /// Any JSON object.
    Object,
    /// An instance of a JSON Schema.
    Schema {
        /// The schema's name, as the provider wants one: `[A-Za-z0-9_-]{1,64}`.
        name: String,
        /// The schema.
        schema: Arc<Value>,
    },
}

/// One model call.
#[derive(Debug, Clone, Default)]
pub struct ChatRequest {
    /// The model's id at the provider, without the connection's `provider/` prefix.
    pub model: String,
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Sampling temperature; the provider's default without.
    pub temperature: Option<f64>,
    /// The most tokens the answer may have.
    pub max_tokens: Option<i64>,
    /// Nucleus sampling.
    pub top_p: Option<f64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// For repeatable sampling, where the provider has it.
    pub seed: Option<i64>,
    /// Whether the answer has to be JSON.
    pub json: JsonMode,
    /// Ours: `exec_<id>/<node>/<unit>/<attempt>`, sent as `X-Client-Request-Id`. Visible ASCII.
    pub request_id: String,
    /// The W3C trace context of the call's span, sent as the header `traceparent`.
    pub traceparent: Option<String>,
}

//! The outer form of every broker message.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The schema version this release writes and the newest it reads.
pub const VERSION: u32 = 1;

/// W3C trace context of the sender.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// The `traceparent` header.
    pub traceparent: String,
    /// The `tracestate` header, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

/// A message with its schema version and the sender's trace context.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Schema version.
    pub v: u32,
    /// The span that sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
    /// What is said.
    pub body: T,
}

/// A message that nobody of this release can read: it goes to the dead letters.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableEnvelope {
    /// Not JSON of the expected shape. Where, but not serde's words: they quote what is in the message.
    #[error("read a broker message: it does not fit at line {line}, column {column}")]
    Malformed {
        /// From 1; 0 when it is not known.
        line: usize,
        /// From 1; 0 when it is not known.
        column: usize,
    },
    /// Written by a newer release.
    #[error("read a broker message of schema version {0}")]
    Version(u32),
}

impl<T> Envelope<T> {
    /// Wraps a body in this release's version.
    pub fn new(body: T, trace: Option<TraceContext>) -> Self {
        Self { v: VERSION, trace, body }
    }
}

impl<T: Serialize> Envelope<T> {
    /// The bytes to send.
    ///
    /// # Errors
    /// When the body has no JSON form, which no message of ours lacks.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

impl<T: DeserializeOwned> Envelope<T> {
    /// Reads a received message.
    ///
    /// # Errors
    /// [`UnreadableEnvelope`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, UnreadableEnvelope> {
        let envelope: Self = serde_json::from_slice(bytes)
            .map_err(|error| UnreadableEnvelope::Malformed { line: error.line(), column: error.column() })?;
        if envelope.v > VERSION { Err(UnreadableEnvelope::Version(envelope.v)) } else { Ok(envelope) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_message_is_described_without_its_content() {
        let error = Envelope::<u32>::from_bytes(br#"{"v": 1, "body": "a private prompt"}"#).unwrap_err();

        let mut told = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            told.push_str(&cause.to_string());
            source = cause.source();
        }
        assert_eq!(told, "read a broker message: it does not fit at line 1, column 35");
    }
}

//! What is sent, and where to.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Small textual headers.
pub type Headers = BTreeMap<String, String>;

/// The header of a dead letter that says why it is one.
pub const DEAD_REASON: &str = "x-lekhika-dead-reason";
/// The header of a dead letter that names the queue it was on.
pub const DEAD_FROM: &str = "x-lekhika-dead-from";

/// The queues of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Queue {
    /// Gateways to the leader: what is to be executed. Durable.
    Submissions,
    /// The leader to executors: hints that something may be claimed. Short-lived.
    Dispatch,
    /// What nobody could read, for an operator. Durable.
    Dead,
}

impl Queue {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Submissions, Self::Dispatch, Self::Dead];

    /// The name without prefix and version.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submissions => "submissions",
            Self::Dispatch => "dispatch",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The address of an [`Inbox`](crate::Inbox). It changes when the connection does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReplyTo(pub(crate) String);

impl From<String> for ReplyTo {
    fn from(address: String) -> Self {
        Self(address)
    }
}

impl ReplyTo {
    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A message to be put on a queue.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// The content.
    pub body: Bytes,
    /// What is said about it.
    pub headers: Headers,
    /// For people who look into the broker; nothing relies on it.
    pub message_id: Option<String>,
    /// Where the consumer may send a reply.
    pub reply_to: Option<ReplyTo>,
    /// Whether it survives a restart of the broker.
    pub persistent: bool,
}

impl Message {
    /// A message that survives a restart of the broker.
    pub fn persistent(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), persistent: true, ..Self::default() }
    }

    /// A message that may be lost with the broker.
    pub fn transient(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// Adds a header (name at most 255 bytes).
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Adds headers.
    #[must_use]
    pub fn headers(mut self, headers: Headers) -> Self {
        self.headers.extend(headers);
        self
    }

    /// Names the message.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.message_id = Some(id.into());
        self
    }

    /// Says where to reply to; `None` when the inbox has no address at the moment.
    #[must_use]
    pub fn reply_to(mut self, address: Option<ReplyTo>) -> Self {
        self.reply_to = address;
        self
    }
}

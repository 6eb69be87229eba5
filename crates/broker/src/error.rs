//! What can go wrong when bytes are moved.

use crate::Queue;

/// Why a message was not, or perhaps not, taken.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// There was no connection before the deadline. Nothing was sent.
    #[error("reach the broker before the deadline")]
    Disconnected,
    /// It was sent, but no confirmation came: it may or may not arrive.
    #[error("get the broker's confirmation for `{queue}`")]
    Unconfirmed {
        /// Where it was sent.
        queue: Queue,
        /// The connection's error; `None` when the deadline passed.
        #[source]
        source: Option<lapin::Error>,
    },
    /// There is no such queue.
    #[error("find the queue `{0}`")]
    Unroutable(Queue),
    /// The broker refused it, for example because it is full.
    #[error("put a message on `{0}`: the broker refused it")]
    Refused(Queue),
    /// The configuration cannot be used.
    #[error("read the broker's URL (LEKHIKA_AMQP_URL): {0}")]
    Configuration(String),
    /// The broker was closed by this process.
    #[error("use a broker that was closed")]
    Closed,
}

impl BrokerError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Configuration(_) | Self::Closed)
    }

    /// Whether the message may arrive in spite of the error.
    #[must_use]
    pub fn may_have_been_taken(&self) -> bool {
        matches!(self, Self::Unconfirmed { .. })
    }
}

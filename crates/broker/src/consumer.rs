//! The receiving end of a queue.

use crate::{Headers, Message, Queue, ReplyTo};
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use std::fmt;
use tokio_util::sync::CancellationToken;

/// Deliveries of one queue. Dropping it gives back what was not taken; what was taken can still be settled.
pub struct Consumer {
    deliveries: BoxStream<'static, Delivery>,
    cancel: CancellationToken,
}

impl Consumer {
    pub(crate) fn new(deliveries: BoxStream<'static, Delivery>, cancel: CancellationToken) -> Self {
        Self { deliveries, cancel }
    }

    /// The next delivery; `None` after [`cancel`](Self::cancel) or when the broker was closed. Safe to drop half-way.
    pub async fn next(&mut self) -> Option<Delivery> {
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.cancel.cancelled() => None,
                delivery = self.deliveries.next() => delivery,
            };
            match delivery {
                // It came over a connection that has broken since: it will be delivered again.
                Some(stale) if stale.is_stale() => {}
                Some(delivery) => return Some(delivery),
                None => {
                    self.cancel();
                    return None;
                }
            }
        }
    }

    /// Takes nothing more; what had arrived but was not taken is given back.
    pub fn cancel(&mut self) {
        self.cancel.cancel();
        self.deliveries = stream::empty().boxed();
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("cancelled", &self.cancel.is_cancelled()).finish_non_exhaustive()
    }
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settlement {
    Ack,
    GiveBack,
}

/// How an implementation hears of it. Never waits.
pub(crate) trait Settle: Send + Sync {
    fn settle(&mut self, settlement: Settlement);
    /// Whether settling has no effect any more.
    fn is_stale(&self) -> bool;
}

/// How often a message was delivered before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Redelivered(pub(crate) u32);

/// A message in the hands of a consumer. Settle it; dropping it gives it back.
#[must_use = "a delivery that is dropped is given back"]
pub struct Delivery {
    /// The content.
    pub body: Bytes,
    /// What the sender said about it.
    pub headers: Headers,
    /// What the sender named it.
    pub message_id: Option<String>,
    /// Where the sender awaits a reply.
    pub reply_to: Option<ReplyTo>,
    /// The queue it is from.
    pub queue: Queue,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// How often it was delivered before, at least (classic queues count to one).
    pub delivery_count: u32,
    settle: Option<Box<dyn Settle>>,
}

impl Delivery {
    pub(crate) fn new(queue: Queue, message: Message, redelivered: Redelivered, settle: Box<dyn Settle>) -> Self {
        Self {
            body: message.body,
            headers: message.headers,
            message_id: message.message_id,
            reply_to: message.reply_to,
            queue,
            redelivered: redelivered.0 > 0,
            delivery_count: redelivered.0,
            settle: Some(settle),
        }
    }

    /// Done: it is not delivered again. Returns at once; acknowledgements are gathered and sent together.
    pub fn ack(mut self) {
        self.settle(Settlement::Ack);
    }

    /// Not now or not here: it is delivered again, to any consumer.
    pub fn give_back(mut self) {
        self.settle(Settlement::GiveBack);
    }

    fn is_stale(&self) -> bool {
        self.settle.as_ref().is_some_and(|s| s.is_stale())
    }

    fn settle(&mut self, settlement: Settlement) {
        if let Some(mut settle) = self.settle.take() {
            settle.settle(settlement);
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.settle(Settlement::GiveBack);
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("queue", &self.queue)
            .field("message_id", &self.message_id)
            .field("bytes", &self.body.len())
            .field("redelivered", &self.redelivered)
            .finish_non_exhaustive()
    }
}

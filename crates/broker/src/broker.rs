//! The trait and its promises.

use crate::{
    BrokerError, Consumer, Delivery, Inbox, Listener, Message, Queue, ReplyTo,
    message::{DEAD_FROM, DEAD_REASON},
};
use async_trait::async_trait;
use bytes::Bytes;
use std::{fmt::Debug, time::Duration};

/// Transports messages between services. Order, limits and truth live elsewhere.
///
/// Every implementation keeps these promises; `tests/it/promises.rs` runs them on each:
///
/// 1. **Responsibility.** [`publish`](Self::publish) returns `Ok` only when the broker has taken responsibility: the
///    message will reach a consumer even if any process dies afterwards (RabbitMQ: publisher confirm of a persistent
///    message; in-process: its consumer has acknowledged it, because the process is the broker).
/// 2. **Never hangs.** Everything with a deadline ends at the deadline, also while the broker is away.
/// 3. **At least once.** A delivery that is given back, dropped, or whose consumer (or its whole process) dies, is
///    delivered again, marked as redelivered. One that was acknowledged is not, unless the connection broke before the broker heard of it.
/// 4. **Bounded.** A consumer holds at most `prefetch` unsettled deliveries.
/// 5. **Dead letters.** A delivery that is dead-lettered is in [`Queue::Dead`] with the reason before it leaves its
///    queue.
/// 6. **Hints may be lost**, and cost the sender nothing: [`hint`](Self::hint), [`announce`](Self::announce) and
///    [`reply`](Self::reply) return at once and report nothing.
/// 7. **Announcements** reach every listener of the topic, in order for each sender. A listener that is too slow, or was
///    cut off, misses the oldest and hears [`Heard::Gap`](crate::Heard::Gap); it never holds up a sender. What is dropped
///    on the way to it, where its process cannot see it (a sender's full buffer, RabbitMQ's bounded queue behind a slow
///    network), is missed *without* a gap: whoever needs everything numbers it and looks up what is missing.
/// 8. **Replies** reach the inbox whose address was sent along, as long as that process lives and stays connected.
/// 9. **Resumes by itself.** After a restart of the broker, consumers, listeners and inboxes go on without their owners
///    doing anything.
#[async_trait]
pub trait Broker: Send + Sync + Debug {
    /// Puts a message on a queue and waits until the broker has taken responsibility (promise 1). Many tasks may publish
    /// at once: their confirms overlap.
    ///
    /// # Errors
    /// [`BrokerError`]; [`BrokerError::may_have_been_taken`] says whether the message can still arrive.
    async fn publish(&self, queue: Queue, message: Message, deadline: Duration) -> Result<(), BrokerError>;

    /// Puts a message on a queue without waiting for anything (promise 6).
    fn hint(&self, queue: Queue, message: Message);

    /// Consumes a queue with at most `prefetch` (at least 1) unsettled deliveries. Returns at once; while the broker is
    /// away nothing arrives.
    fn consume(&self, queue: Queue, prefetch: u16) -> Consumer;

    /// Tells all who listen to the topic at this moment (promises 6 and 7).
    fn announce(&self, topic: &str, body: Bytes);

    /// Listens to topics (more may be bound later), holding at most `capacity` announcements. The first thing heard is
    /// [`Heard::Gap`](crate::Heard::Gap), as soon as the listener is connected.
    fn listen(&self, topics: &[String], capacity: usize) -> Listener;

    /// An address of this process to which others can reply, holding at most `capacity` replies.
    fn inbox(&self, capacity: usize) -> Inbox;

    /// Sends bytes to an inbox (promises 6 and 8).
    fn reply(&self, to: &ReplyTo, body: Bytes);

    /// Whether the broker can be reached now: waits for a connection until the deadline.
    ///
    /// # Errors
    /// [`BrokerError::Disconnected`].
    async fn ready(&self, deadline: Duration) -> Result<(), BrokerError>;

    /// How many messages wait in a queue, without those that consumers hold.
    ///
    /// # Errors
    /// [`BrokerError`].
    async fn depth(&self, queue: Queue, deadline: Duration) -> Result<u64, BrokerError>;

    /// Moves a delivery to [`Queue::Dead`], with the reason and its queue in the headers (promise 5).
    ///
    /// # Errors
    /// [`BrokerError`]: the delivery is then given back.
    async fn dead_letter(&self, delivery: Delivery, reason: &str, deadline: Duration) -> Result<(), BrokerError> {
        let message = Message::persistent(delivery.body.clone())
            .headers(delivery.headers.clone())
            .header(DEAD_REASON, reason)
            .header(DEAD_FROM, delivery.queue.name());
        self.publish(Queue::Dead, message, deadline).await?;
        delivery.ack();
        Ok(())
    }

    /// Ends the connection: consumers and listeners end, publishing fails. Also happens when the broker is dropped.
    async fn close(&self);
}

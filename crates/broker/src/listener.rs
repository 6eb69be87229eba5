//! Live announcements and replies: bounded, newest kept, never back-pressure.

use crate::{BrokerError, ReplyTo};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::{collections::VecDeque, fmt, sync::Arc};
use tokio::sync::{Notify, watch};
use tokio_util::sync::DropGuard;

/// Something that was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The topic it was announced under.
    pub topic: String,
    /// The content.
    pub body: Bytes,
}

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// An announcement.
    Announcement(Announcement),
    /// Anything announced before this moment may have been missed: at the start, after a reconnect, after being too slow.
    /// Not every loss is heard (promise 7 of [`Broker`](crate::Broker)).
    /// Whoever needs it all must look it up now.
    Gap,
}

/// Hears announcements of its topics. Dropping it ends it.
pub struct Listener {
    ring: Arc<Ring>,
    topics: Box<dyn Topics>,
    _end: DropGuard,
}

impl Listener {
    pub(crate) fn new(ring: Arc<Ring>, topics: Box<dyn Topics>, end: DropGuard) -> Self {
        Self { ring, topics, _end: end }
    }

    /// The next thing heard; `None` when the broker was closed. Safe to drop half-way.
    pub async fn next(&mut self) -> Option<Heard> {
        self.ring.next().await
    }

    /// A handle to bind and unbind topics from elsewhere.
    #[must_use]
    pub fn bindings(&self) -> Bindings {
        Bindings { topics: self.topics.boxed_clone() }
    }

    /// Listens to one more topic from when this returns. Binding twice is binding once.
    ///
    /// # Errors
    /// When the broker is away for more than five seconds. The topic is remembered all the same and bound at the
    /// reconnect, which is heard as [`Heard::Gap`].
    pub async fn bind(&self, topic: &str) -> Result<(), BrokerError> {
        self.topics.bind(topic).await
    }

    /// Stops listening to a topic. What is on its way may still be heard.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn unbind(&self, topic: &str) -> Result<(), BrokerError> {
        self.topics.unbind(topic).await
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

/// Changes the topics of a [`Listener`] that another task reads.
pub struct Bindings {
    topics: Box<dyn Topics>,
}

impl Bindings {
    /// As [`Listener::bind`].
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub async fn bind(&self, topic: &str) -> Result<(), BrokerError> {
        self.topics.bind(topic).await
    }

    /// As [`Listener::unbind`].
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub async fn unbind(&self, topic: &str) -> Result<(), BrokerError> {
        self.topics.unbind(topic).await
    }
}

impl Clone for Bindings {
    fn clone(&self) -> Self {
        Self { topics: self.topics.boxed_clone() }
    }
}

impl fmt::Debug for Bindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bindings").finish_non_exhaustive()
    }
}

/// Receives replies. Dropping it ends it.
pub struct Inbox {
    ring: Arc<Ring>,
    address: watch::Receiver<Option<ReplyTo>>,
    _end: DropGuard,
}

impl Inbox {
    pub(crate) fn new(ring: Arc<Ring>, address: watch::Receiver<Option<ReplyTo>>, end: DropGuard) -> Self {
        Self { ring, address, _end: end }
    }

    /// Watches the address for use by the tasks that send: `None` while the broker is away.
    #[must_use]
    pub fn address(&self) -> watch::Receiver<Option<ReplyTo>> {
        self.address.clone()
    }

    /// The next reply; `None` when the broker was closed. Replies may be lost (promise 6). Safe to drop half-way.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.ring.next().await? {
                Heard::Announcement(reply) => return Some(reply.body),
                Heard::Gap => {}
            }
        }
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("address", &*self.address.borrow()).finish_non_exhaustive()
    }
}

/// How an implementation binds topics.
#[async_trait]
pub(crate) trait Topics: Send + Sync {
    async fn bind(&self, topic: &str) -> Result<(), BrokerError>;
    async fn unbind(&self, topic: &str) -> Result<(), BrokerError>;
    fn boxed_clone(&self) -> Box<dyn Topics>;
}

/// A bounded buffer between whoever announces and one listener: when it is full the oldest goes.
pub(crate) struct Ring {
    state: Mutex<RingState>,
    changed: Notify,
    capacity: usize,
}

#[derive(Default)]
struct RingState {
    items: VecDeque<Announcement>,
    gap: bool,
    closed: bool,
}

impl Ring {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Notify::new(), capacity: capacity.max(1) })
    }

    pub(crate) fn push(&self, item: Announcement) {
        {
            let mut state = self.state.lock();
            if state.items.len() >= self.capacity {
                state.items.pop_front();
                state.gap = true;
            }
            state.items.push_back(item);
        }
        self.changed.notify_one();
    }

    /// The gap is heard before what is buffered, although it lies behind it: whoever looks up the truth then sees
    /// everything that was missed, and only sees some things twice.
    pub(crate) fn mark_gap(&self) {
        self.state.lock().gap = true;
        self.changed.notify_one();
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    async fn next(&self) -> Option<Heard> {
        loop {
            if let Some(heard) = self.take() {
                return heard;
            }
            // One reader only, and `notify_one` keeps a permit: nothing pushed after `take` is overslept.
            self.changed.notified().await;
        }
    }

    /// `Some(None)` at the end.
    fn take(&self) -> Option<Option<Heard>> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.gap) {
            return Some(Some(Heard::Gap));
        }
        match state.items.pop_front() {
            Some(item) => Some(Some(Heard::Announcement(item))),
            None if state.closed => Some(None),
            None => None,
        }
    }
}

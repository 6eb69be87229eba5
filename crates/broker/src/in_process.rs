//! The broker of the embedded form: queues in the memory of one process.

use crate::{
    Announcement, Broker, BrokerError, Consumer, Delivery, Inbox, Listener, Message, Queue, ReplyTo,
    consumer::{Redelivered, Settle, Settlement},
    listener::{Ring, Topics},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A queue that is longer refuses messages; of hints and dead letters the oldest go.
const QUEUE_CAPACITY: usize = 100_000;

/// Keeps the promises of [`Broker`] inside one process. A publish to [`Queue::Submissions`] is confirmed when its consumer
/// has acknowledged it; dead letters are kept in memory only. Clones are the same broker.
#[derive(Clone, Default)]
pub struct InProcessBroker {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    submissions: Arc<Waiting>,
    dispatch: Arc<Waiting>,
    dead: Arc<Waiting>,
    /// By topic. Ended listeners are removed when the topic is next announced or bound.
    topics: Mutex<HashMap<String, Vec<Weak<Ring>>>>,
    inboxes: Mutex<HashMap<String, Weak<Ring>>>,
    inbox_count: AtomicU64,
    closed: CancellationToken,
}

/// One queue.
#[derive(Default)]
struct Waiting {
    stored: Mutex<VecDeque<Stored>>,
    arrived: Notify,
}

struct Stored {
    message: Message,
    deliveries: u32,
    /// Told when the consumer has acknowledged.
    confirm: Option<oneshot::Sender<()>>,
}

impl InProcessBroker {
    /// A broker with empty queues.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl fmt::Debug for InProcessBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcessBroker").finish_non_exhaustive()
    }
}

impl Shared {
    fn queue(&self, queue: Queue) -> &Arc<Waiting> {
        match queue {
            Queue::Submissions => &self.submissions,
            Queue::Dispatch => &self.dispatch,
            Queue::Dead => &self.dead,
        }
    }
}

impl Waiting {
    fn put(&self, stored: Stored) {
        self.stored.lock().push_back(stored);
        self.arrived.notify_one();
    }

    /// Keeps the newest.
    fn put_bounded(&self, message: Message) {
        {
            let mut stored = self.stored.lock();
            if stored.len() >= QUEUE_CAPACITY {
                stored.pop_front();
            }
            stored.push_back(Stored { message, deliveries: 0, confirm: None });
        }
        self.arrived.notify_one();
    }

    fn put_back(&self, stored: Stored) {
        self.stored.lock().push_front(stored);
        self.arrived.notify_one();
    }

    async fn take(&self) -> Stored {
        loop {
            let (taken, more) = {
                let mut stored = self.stored.lock();
                (stored.pop_front(), !stored.is_empty())
            };
            if more {
                // Several arrivals leave one permit only: pass the wake-up on to the next consumer.
                self.arrived.notify_one();
            }
            match taken {
                Some(taken) => return taken,
                None => self.arrived.notified().await,
            }
        }
    }
}

#[async_trait]
impl Broker for InProcessBroker {
    async fn publish(&self, queue: Queue, message: Message, deadline: Duration) -> Result<(), BrokerError> {
        if self.shared.closed.is_cancelled() {
            return Err(BrokerError::Closed);
        }
        let waiting = self.shared.queue(queue);
        if queue != Queue::Submissions {
            // Hints are worth no more than the process, and dead letters have no consumer to wait for.
            waiting.put_bounded(message);
            return Ok(());
        }
        if waiting.stored.lock().len() >= QUEUE_CAPACITY {
            return Err(BrokerError::Refused(queue));
        }
        let (confirm, confirmed) = oneshot::channel();
        waiting.put(Stored { message, deliveries: 0, confirm: Some(confirm) });
        let unconfirmed = || BrokerError::Unconfirmed { queue, source: None };
        tokio::select! {
            confirmed = timeout(deadline, confirmed) => match confirmed {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(unconfirmed()),
            },
            () = self.shared.closed.cancelled() => Err(unconfirmed()),
        }
    }

    fn hint(&self, queue: Queue, message: Message) {
        self.shared.queue(queue).put_bounded(message);
    }

    fn consume(&self, queue: Queue, prefetch: u16) -> Consumer {
        let waiting = Arc::clone(self.shared.queue(queue));
        let permits = Arc::new(Semaphore::new(usize::from(prefetch.max(1))));
        let deliveries = stream::unfold((waiting, permits), move |(waiting, permits)| async move {
            // The semaphore is never closed.
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            let stored = waiting.take().await;
            Some((delivery(queue, stored, Arc::clone(&waiting), permit), (waiting, permits)))
        });
        Consumer::new(deliveries.boxed(), self.shared.closed.child_token())
    }

    fn announce(&self, topic: &str, body: Bytes) {
        let mut topics = self.shared.topics.lock();
        let Some(rings) = topics.get_mut(topic) else { return };
        rings.retain(|ring| match ring.upgrade() {
            Some(ring) => {
                ring.push(Announcement { topic: topic.to_owned(), body: body.clone() });
                true
            }
            None => false,
        });
        if rings.is_empty() {
            topics.remove(topic);
        }
    }

    fn listen(&self, topics: &[String], capacity: usize) -> Listener {
        let ring = Ring::new(capacity);
        let bound = BoundTopics { shared: Arc::clone(&self.shared), ring: Arc::downgrade(&ring) };
        for topic in topics {
            bound.add(topic);
        }
        ring.mark_gap();
        let end = close_with(&self.shared.closed, &ring);
        Listener::new(ring, Box::new(bound), end)
    }

    fn inbox(&self, capacity: usize) -> Inbox {
        let ring = Ring::new(capacity);
        let name = format!("inbox-{}", self.shared.inbox_count.fetch_add(1, Ordering::Relaxed));
        {
            let mut inboxes = self.shared.inboxes.lock();
            inboxes.retain(|_, ring| ring.strong_count() > 0);
            inboxes.insert(name.clone(), Arc::downgrade(&ring));
        }
        let (_, address) = watch::channel(Some(ReplyTo(name)));
        let end = close_with(&self.shared.closed, &ring);
        Inbox::new(ring, address, end)
    }

    fn reply(&self, to: &ReplyTo, body: Bytes) {
        let ring = self.shared.inboxes.lock().get(&to.0).and_then(Weak::upgrade);
        if let Some(ring) = ring {
            ring.push(Announcement { topic: String::new(), body });
        }
    }

    async fn ready(&self, _: Duration) -> Result<(), BrokerError> {
        if self.shared.closed.is_cancelled() { Err(BrokerError::Closed) } else { Ok(()) }
    }

    async fn depth(&self, queue: Queue, _: Duration) -> Result<u64, BrokerError> {
        let waiting = self.shared.queue(queue).stored.lock().len();
        Ok(u64::try_from(waiting).unwrap_or(u64::MAX))
    }

    async fn close(&self) {
        self.shared.closed.cancel();
    }
}

/// Closes the ring when the broker is closed; the guard, when the listener is dropped, ends the waiting for it.
fn close_with(closed: &CancellationToken, ring: &Arc<Ring>) -> tokio_util::sync::DropGuard {
    let end = closed.child_token();
    let (token, ring) = (end.clone(), Arc::downgrade(ring));
    // Bounded by the life of the listener, which no task of a shutdown waits for.
    tokio::spawn(async move {
        token.cancelled().await;
        if let Some(ring) = ring.upgrade() {
            ring.close();
        }
    });
    end.drop_guard()
}

fn delivery(queue: Queue, stored: Stored, waiting: Arc<Waiting>, permit: OwnedSemaphorePermit) -> Delivery {
    let message = stored.message.clone();
    let redelivered = Redelivered(stored.deliveries);
    Delivery::new(queue, message, redelivered, Box::new(Held { stored: Some(stored), waiting, _permit: permit }))
}

/// What a consumer has not settled yet.
struct Held {
    stored: Option<Stored>,
    waiting: Arc<Waiting>,
    _permit: OwnedSemaphorePermit,
}

impl Settle for Held {
    fn settle(&mut self, settlement: Settlement) {
        let Some(mut stored) = self.stored.take() else { return };
        match settlement {
            Settlement::Ack => {
                if let Some(confirm) = stored.confirm.take() {
                    // Whoever published may have given up at its deadline: the message was taken all the same.
                    let _ = confirm.send(());
                }
            }
            Settlement::GiveBack => {
                stored.deliveries += 1;
                self.waiting.put_back(stored);
            }
        }
    }

    fn is_stale(&self) -> bool {
        false
    }
}

/// The topics of one listener.
#[derive(Clone)]
struct BoundTopics {
    shared: Arc<Shared>,
    ring: Weak<Ring>,
}

impl BoundTopics {
    fn add(&self, topic: &str) {
        let mut topics = self.shared.topics.lock();
        let rings = topics.entry(topic.to_owned()).or_default();
        rings.retain(|ring| ring.strong_count() > 0 && !ring.ptr_eq(&self.ring));
        rings.push(self.ring.clone());
    }
}

#[async_trait]
impl Topics for BoundTopics {
    async fn bind(&self, topic: &str) -> Result<(), BrokerError> {
        self.add(topic);
        Ok(())
    }

    async fn unbind(&self, topic: &str) -> Result<(), BrokerError> {
        let mut topics = self.shared.topics.lock();
        if let Some(rings) = topics.get_mut(topic) {
            rings.retain(|ring| ring.strong_count() > 0 && !ring.ptr_eq(&self.ring));
        }
        Ok(())
    }

    fn boxed_clone(&self) -> Box<dyn Topics> {
        Box::new(self.clone())
    }
}

//! Private queues: announcements of some topics, and replies.

use super::{
    link::{Link, Live},
    topology::Topology,
};
use crate::{
    Announcement, BrokerError, Inbox, Listener, ReplyTo,
    listener::{Ring, Topics},
};
use async_trait::async_trait;
use futures::{StreamExt, future::try_join_all};
use lapin::{
    Channel,
    options::{BasicConsumeOptions, QueueBindOptions},
    types::FieldTable,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Before a private queue whose channel broke on a good connection is declared again.
const BACKOFF: Duration = Duration::from_millis(200);
/// How long binding may take.
const BIND_TIMEOUT: Duration = Duration::from_secs(5);
/// Changes of topics that wait.
const CHANGES: usize = 256;

pub(super) fn listen(link: &Link, topology: &Topology, topics: &[String], capacity: usize) -> Listener {
    let (changes, changed) = mpsc::channel(CHANGES);
    let started = start(link, topology, topics.iter().cloned().collect(), changed, capacity);
    Listener::new(started.ring, Box::new(Changes { changes }), started.end.drop_guard())
}

pub(super) fn inbox(link: &Link, topology: &Topology, capacity: usize) -> Inbox {
    let (_, never_changed) = mpsc::channel(1);
    let started = start(link, topology, BTreeSet::new(), never_changed, capacity);
    Inbox::new(started.ring, started.address, started.end.drop_guard())
}

struct Started {
    ring: Arc<Ring>,
    address: watch::Receiver<Option<ReplyTo>>,
    end: CancellationToken,
}

fn start(
    link: &Link,
    topology: &Topology,
    topics: BTreeSet<String>,
    changed: mpsc::Receiver<Change>,
    capacity: usize,
) -> Started {
    let ring = Ring::new(capacity);
    let (address, seen) = watch::channel(None);
    let end = link.closed.child_token();
    let private = PrivateQueue {
        link: link.clone(),
        topology: topology.clone(),
        topics,
        changed,
        capacity,
        ring: Arc::clone(&ring),
        address,
        end: end.clone(),
    };
    link.spawn(private.run());
    Started { ring, address: seen, end }
}

/// A topic to bind (or not) and whom to tell.
struct Change {
    topic: String,
    bound: bool,
    done: oneshot::Sender<Result<(), BrokerError>>,
}

/// One exclusive queue, declared anew on every connection.
struct PrivateQueue {
    link: Link,
    topology: Topology,
    topics: BTreeSet<String>,
    changed: mpsc::Receiver<Change>,
    capacity: usize,
    ring: Arc<Ring>,
    address: watch::Sender<Option<ReplyTo>>,
    end: CancellationToken,
}

impl PrivateQueue {
    async fn run(mut self) {
        while let Some(live) = self.next_connection().await {
            if let Err(error) = self.session(&live).await {
                tracing::debug!(%error, "a private queue lost its channel");
            }
            self.address.send_replace(None);
            tokio::select! {
                () = self.end.cancelled() => break,
                () = sleep(BACKOFF) => {}
            }
        }
        self.ring.close();
    }

    /// Waits for a connection; meanwhile changes of topics are remembered.
    async fn next_connection(&mut self) -> Option<Arc<Live>> {
        loop {
            tokio::select! {
                () = self.end.cancelled() => return None,
                live = self.link.wait() => return live.ok(),
                Some(change) = self.changed.recv() => {
                    self.remember(&change);
                    let _ = change.done.send(Err(BrokerError::Disconnected));
                }
            }
        }
    }

    fn remember(&mut self, change: &Change) {
        if change.bound {
            self.topics.insert(change.topic.clone());
        } else {
            self.topics.remove(&change.topic);
        }
    }

    async fn session(&mut self, live: &Live) -> lapin::Result<()> {
        let channel = live.connection.create_channel().await?;
        let queue = self.topology.declare_private(&channel, self.capacity).await?;
        try_join_all(self.topics.iter().map(|topic| self.bind(&channel, &queue, topic))).await?;
        let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
        let mut incoming =
            channel.basic_consume(queue.clone().into(), "".into(), options, FieldTable::default()).await?;
        self.address.send_replace(Some(ReplyTo(queue.clone())));
        self.ring.mark_gap();
        loop {
            tokio::select! {
                () = self.end.cancelled() => return channel.close(200, "done".into()).await,
                () = live.broken.cancelled() => return Ok(()),
                Some(change) = self.changed.recv() => self.change(&channel, &queue, change).await?,
                next = incoming.next() => match next {
                    None => return Ok(()),
                    Some(next) => {
                        let next = next?;
                        self.ring.push(Announcement { topic: next.routing_key.to_string(), body: next.data.into() });
                    }
                },
            }
        }
    }

    async fn change(&mut self, channel: &Channel, queue: &str, change: Change) -> lapin::Result<()> {
        self.remember(&change);
        let result = if change.bound {
            self.bind(channel, queue, &change.topic).await
        } else {
            let exchange = self.topology.announcements().into();
            let topic = change.topic.into();
            channel.queue_unbind(queue.into(), exchange, topic, FieldTable::default()).await
        };
        // Whoever asked may have stopped waiting; the topic is remembered in any case.
        let _ = change.done.send(if result.is_ok() { Ok(()) } else { Err(BrokerError::Disconnected) });
        result
    }

    async fn bind(&self, channel: &Channel, queue: &str, topic: &str) -> lapin::Result<()> {
        let exchange = self.topology.announcements().into();
        let options = QueueBindOptions::default();
        channel.queue_bind(queue.into(), exchange, topic.into(), options, FieldTable::default()).await
    }
}

/// The way to the task of the queue.
#[derive(Clone)]
struct Changes {
    changes: mpsc::Sender<Change>,
}

impl Changes {
    async fn ask(&self, topic: &str, bound: bool) -> Result<(), BrokerError> {
        let (done, answered) = oneshot::channel();
        let asked = async {
            let change = Change { topic: topic.to_owned(), bound, done };
            self.changes.send(change).await.map_err(|_ended| BrokerError::Closed)?;
            answered.await.unwrap_or(Err(BrokerError::Closed))
        };
        timeout(BIND_TIMEOUT, asked).await.unwrap_or(Err(BrokerError::Disconnected))
    }
}

#[async_trait]
impl Topics for Changes {
    async fn bind(&self, topic: &str) -> Result<(), BrokerError> {
        self.ask(topic, true).await
    }

    async fn unbind(&self, topic: &str) -> Result<(), BrokerError> {
        self.ask(topic, false).await
    }

    fn boxed_clone(&self) -> Box<dyn Topics> {
        Box::new(self.clone())
    }
}

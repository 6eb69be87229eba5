//! The connection: kept up by one task, seen by all others through a watch.
//!
//! A connection is used until anything about it looks broken, then it is thrown away and a new one is made: this is
//! simpler to reason about than recovering a connection in place, and everyone who uses it must cope with a new one anyway.

use super::topology::Topology;
use crate::BrokerError;
use futures::StreamExt;
use lapin::{Channel, Connection, ConnectionProperties, Event, options::ConfirmSelectOptions, uri::AMQPUri};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A connection that is not usable by then is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts, doubling from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How often the state of the connection is looked at, should its event have been missed.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Channels for publishing with confirms. Two keep both of RabbitMQ's sides busy; more gain nothing.
const PUBLISH_CHANNELS: usize = 2;

/// A connection that works, with its channels for publishing.
pub(super) struct Live {
    pub(super) connection: Connection,
    confirmed: Vec<Channel>,
    next: AtomicUsize,
    /// For what nobody waits for; without confirms.
    pub(super) hints: Channel,
    /// Cancelled by whoever finds it broken.
    pub(super) broken: CancellationToken,
}

impl Live {
    /// A channel for publishing with confirms.
    pub(super) fn confirmed(&self) -> Option<&Channel> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.confirmed.get(turn % self.confirmed.len().max(1))
    }
}

/// Shared by everything that uses the connection.
#[derive(Clone)]
pub(super) struct Link {
    live: watch::Receiver<Option<Arc<Live>>>,
    /// Cancelled when the broker is closed or dropped.
    pub(super) closed: CancellationToken,
    tasks: TaskTracker,
}

impl Link {
    pub(super) fn start(uri: AMQPUri, name: String, topology: Topology) -> Self {
        let (sender, live) = watch::channel(None);
        let link = Self { live, closed: CancellationToken::new(), tasks: TaskTracker::new() };
        link.spawn(keep_up(uri, name, topology, sender, link.closed.clone()));
        link
    }

    /// Runs one of the broker's own tasks. They end with `closed`, not with the process's drain: while a process drains,
    /// others still publish.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    pub(super) fn is_up(&self) -> bool {
        self.live.borrow().is_some()
    }

    /// The present connection, if there is one.
    pub(super) fn now(&self) -> Option<Arc<Live>> {
        self.live.borrow().clone()
    }

    /// The connection, waiting for it until the deadline.
    pub(super) async fn up(&self, deadline: Instant) -> Result<Arc<Live>, BrokerError> {
        if let Some(live) = self.now() {
            return Ok(live);
        }
        timeout_at(deadline, self.wait()).await.unwrap_or(Err(BrokerError::Disconnected))
    }

    /// The connection, as soon as there is one; an error when the broker is closed.
    pub(super) async fn wait(&self) -> Result<Arc<Live>, BrokerError> {
        let mut live = self.live.clone();
        tokio::select! {
            () = self.closed.cancelled() => Err(BrokerError::Closed),
            found = live.wait_for(Option::is_some) => {
                found.ok().and_then(|live| live.clone()).ok_or(BrokerError::Closed)
            }
        }
    }

    pub(super) async fn close(&self) {
        self.closed.cancel();
        self.tasks.close();
        if timeout(CONNECT_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("the broker's tasks did not end in time");
        }
    }
}

async fn keep_up(
    uri: AMQPUri,
    name: String,
    topology: Topology,
    sender: watch::Sender<Option<Arc<Live>>>,
    closed: CancellationToken,
) {
    let (first, longest) = BACKOFF;
    let mut backoff = first;
    while !closed.is_cancelled() {
        let attempt = timeout(CONNECT_TIMEOUT, connect(uri.clone(), &name, &topology));
        let attempt = tokio::select! {
            attempt = attempt => attempt,
            () = closed.cancelled() => return,
        };
        match attempt {
            Ok(Ok(live)) => {
                tracing::info!("connected to RabbitMQ");
                backoff = first;
                use_up(Arc::new(live), &sender, &closed).await;
            }
            Ok(Err(error)) => tracing::warn!(%error, "cannot connect to RabbitMQ"),
            Err(_) => tracing::warn!("cannot connect to RabbitMQ within five seconds"),
        }
        tokio::select! {
            () = sleep(backoff) => backoff = (backoff * 2).min(longest),
            () = closed.cancelled() => {}
        }
    }
}

/// Offers the connection to everyone until it breaks.
async fn use_up(live: Arc<Live>, sender: &watch::Sender<Option<Arc<Live>>>, closed: &CancellationToken) {
    sender.send_replace(Some(Arc::clone(&live)));
    tokio::select! {
        () = until_broken(&live) => tracing::warn!("lost the connection to RabbitMQ"),
        () = closed.cancelled() => {}
    }
    sender.send_replace(None);
    live.broken.cancel();
    // In an orderly end this flushes what was sent; on a broken connection it fails at once.
    let farewell = live.connection.close(200, "closed".into());
    let _ = timeout(Duration::from_secs(1), farewell).await;
}

async fn until_broken(live: &Live) {
    let mut events = Box::pin(live.connection.events_listener());
    loop {
        if !live.connection.status().connected() {
            return;
        }
        tokio::select! {
            event = events.next() => match event {
                Some(Event::Error(error)) => {
                    tracing::debug!(%error, "RabbitMQ connection error");
                    return;
                }
                Some(Event::ConnectionBlocked(reason)) => tracing::warn!(reason, "RabbitMQ blocks publishers"),
                Some(_) => {}
                None => return,
            },
            () = live.broken.cancelled() => return,
            () = sleep(CHECK_EVERY) => {}
        }
    }
}

async fn connect(uri: AMQPUri, name: &str, topology: &Topology) -> lapin::Result<Live> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connection = Connection::connect_uri(uri, properties).await?;
    let hints = connection.create_channel().await?;
    topology.declare(&hints).await?;
    let mut confirmed = Vec::with_capacity(PUBLISH_CHANNELS);
    for _ in 0..PUBLISH_CHANNELS {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        confirmed.push(channel);
    }
    Ok(Live { connection, confirmed, next: AtomicUsize::new(0), hints, broken: CancellationToken::new() })
}

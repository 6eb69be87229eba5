//! Live events of the executions that somebody watches at this gateway: one ring per execution, a cursor per viewer.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use broker::{Bindings, Broker, Heard};
use domain::{EventRecord, ExecutionId, GatewayId, Sequence};
use parking_lot::Mutex;
use protocol::{
    Envelope,
    live::{LiveEvents, WATCH_ADD_PATH, WATCH_EVERY_MS, WATCH_PATH, Watch, shard_of},
    read::{ReadTails, Subject, TAILS_PATH, Tails},
};
use service::{InternalClient, InternalError, Shutdown};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{metrics::Metrics, ring::Ring, shards::Shards, subscription::Subscription};

/// A stream that was silent for this long is looked after.
pub(crate) const SILENT: Duration = Duration::from_secs(5);
/// Announcements that may wait.
const ANNOUNCEMENTS: usize = 4_096;
/// Streams per request for tails.
const TAILS: usize = 1_000;
/// How long status has to answer.
pub(crate) const WITHIN: Duration = Duration::from_secs(5);

/// All streams of this gateway.
pub(crate) struct Hub {
    id: GatewayId,
    pub(crate) status: InternalClient,
    pub(crate) metrics: Metrics,
    pub(crate) bindings: Bindings,
    streams: Mutex<HashMap<ExecutionId, Arc<Stream>>>,
    pub(crate) watch_now: Notify,
}

/// One watched execution.
pub(crate) struct Stream {
    pub(crate) ring: Mutex<Ring>,
    /// Counts changes of the ring.
    pub(crate) changed: watch::Sender<u64>,
    state: Mutex<StreamState>,
}

struct StreamState {
    viewers: usize,
    heard_at: Instant,
    /// The latest event that any viewer has.
    seen: Sequence,
}

impl Stream {
    /// A viewer has this event.
    pub(crate) fn saw(&self, sequence: Sequence) {
        let mut state = self.state.lock();
        state.seen = state.seen.max(sequence);
    }
}

impl Hub {
    pub(crate) fn start(
        id: GatewayId,
        status: InternalClient,
        broker: &Arc<dyn Broker>,
        metrics: Metrics,
        shutdown: &Shutdown,
    ) -> Arc<Self> {
        let listener = broker.listen(&[], ANNOUNCEMENTS);
        let hub = Arc::new(Self {
            id,
            status,
            metrics,
            bindings: listener.bindings(),
            streams: Mutex::default(),
            watch_now: Notify::new(),
        });
        shutdown.spawn(hear(Arc::clone(&hub), listener, shutdown.clone()));
        shutdown.spawn(keep_watching(Arc::clone(&hub), shutdown.clone()));
        hub
    }

    /// Watches an execution from `after` on. What was stored before is replayed first. `seen` is an event that there is, at
    /// most `after`: what a client says it has seen may be any number.
    pub(crate) fn subscribe(self: &Arc<Self>, subject: Subject, after: Sequence, seen: Sequence) -> Subscription {
        let id = subject.execution_id;
        let stream = {
            let mut streams = self.streams.lock();
            let stream = streams.entry(id).or_insert_with(|| {
                let state = StreamState { viewers: 0, heard_at: Instant::now(), seen };
                Arc::new(Stream { ring: Mutex::default(), changed: watch::channel(0).0, state: Mutex::new(state) })
            });
            stream.state.lock().viewers += 1;
            Arc::clone(stream)
        };
        self.metrics.subscribers.inc();
        Subscription::new(Arc::clone(self), stream, subject, after)
    }

    /// A viewer has gone.
    pub(crate) fn leave(&self, stream: &Stream, id: ExecutionId) {
        self.metrics.subscribers.dec();
        let mut streams = self.streams.lock();
        let last = {
            let mut state = stream.state.lock();
            state.viewers -= 1;
            state.viewers == 0
        };
        if last {
            streams.remove(&id);
        }
    }

    /// The shards of what is watched here.
    fn wanted(&self) -> HashSet<u16> {
        self.streams.lock().keys().map(|id| shard_of(*id)).collect()
    }

    /// Tells the leader of one more.
    ///
    /// # Errors
    /// When the leader cannot be reached, or knows only whole lists.
    pub(crate) async fn watch_too(&self, execution: ExecutionId) -> Result<(), InternalError> {
        let watch = Watch { gateway_id: self.id, executions: vec![execution] };
        self.status.post_json::<_, Option<()>>(WATCH_ADD_PATH, &watch, WITHIN).await.map(drop)
    }

    /// Tells the leader what is watched here, all of it.
    async fn watch(&self) -> Result<(), InternalError> {
        let executions: Vec<ExecutionId> = self.streams.lock().keys().copied().collect();
        if executions.is_empty() {
            return Ok(());
        }
        let watch = Watch { gateway_id: self.id, executions };
        self.status.post_json::<_, Option<()>>(WATCH_PATH, &watch, WITHIN).await.map(drop)
    }

    fn hear(&self, execution: ExecutionId, events: Vec<EventRecord>) {
        let stream = self.streams.lock().get(&execution).cloned();
        if let Some(stream) = stream {
            stream.state.lock().heard_at = Instant::now();
            stream.ring.lock().add(events);
            stream.changed.send_modify(|count| *count += 1);
        }
    }

    /// Asks once for what the streams missed: those that fell silent, or all.
    async fn look_after(&self, all: bool) {
        let silent: Vec<(ExecutionId, Sequence)> = {
            let streams = self.streams.lock();
            let due = |stream: &Stream| all || stream.state.lock().heard_at.elapsed() >= SILENT;
            let last = |stream: &Stream| stream.ring.lock().last().unwrap_or_default().max(stream.state.lock().seen);
            streams.iter().filter(|(_, stream)| due(stream)).map(|(id, stream)| (*id, last(stream))).collect()
        };
        for streams in silent.chunks(TAILS) {
            self.metrics.fetches.inc();
            let question = ReadTails { streams: streams.to_vec() };
            match self.status.post_json::<_, Tails>(TAILS_PATH, &question, WITHIN).await {
                Ok(tails) => {
                    for (id, _) in streams {
                        if let Some(stream) = self.streams.lock().get(id) {
                            stream.state.lock().heard_at = Instant::now();
                        }
                    }
                    for live in tails.executions {
                        self.hear(live.execution_id, live.events);
                    }
                }
                Err(error) => tracing::debug!(%error, "tails cannot be read"),
            }
        }
    }
}

/// Puts what is announced into the rings.
async fn hear(hub: Arc<Hub>, mut listener: broker::Listener, shutdown: Shutdown) {
    loop {
        let heard = tokio::select! {
            heard = listener.next() => heard,
            () = shutdown.abort.cancelled() => None,
        };
        match heard {
            Some(Heard::Announcement(announcement)) => match Envelope::<LiveEvents>::from_bytes(&announcement.body) {
                Ok(envelope) => {
                    for live in envelope.body.executions {
                        hub.hear(live.execution_id, live.events);
                    }
                }
                Err(error) => tracing::error!(%error, "live events cannot be read"),
            },
            Some(Heard::Gap) => hub.look_after(true).await,
            None => return,
        }
    }
}

/// Repeats what is watched, looks after silent streams, and lets go of shards that nobody watches.
async fn keep_watching(hub: Arc<Hub>, shutdown: Shutdown) {
    let mut shards = Shards::default();
    loop {
        let period = tokio::time::sleep(Duration::from_millis(WATCH_EVERY_MS));
        let told = tokio::select! {
            () = hub.watch_now.notified() => true,
            () = period => false,
            () = shutdown.abort.cancelled() => return,
        };
        let missed = shards.settle(&hub.bindings, || hub.wanted()).await;
        if let Err(error) = hub.watch().await {
            tracing::debug!(%error, "the leader does not know what is watched");
        }
        if missed || !told {
            hub.look_after(missed).await;
        }
    }
}

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
    live::{LiveEvents, WATCH_EVERY_MS, WATCH_PATH, Watch, shard_of, topic_of},
    read::{EVENTS_PATH, EventPage, Found, ReadEvents, ReadTails, Subject, TAILS_PATH, Tails},
};
use service::{InternalClient, InternalError, Problem, Shutdown};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use tracing::{Instrument as _, Span};

use crate::{
    failure,
    metrics::Metrics,
    ring::{Next, Ring},
};

/// A stream that was silent for this long is looked after.
const SILENT: Duration = Duration::from_secs(5);
/// Announcements that may wait.
const ANNOUNCEMENTS: usize = 4_096;
/// Streams per request for tails.
const TAILS: usize = 1_000;
/// Events per page of a replay.
const PAGE: u32 = 500;
/// Waits before a missing event is looked up again.
const LOOK_AGAIN: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1)];
/// How long status has to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// All streams of this gateway.
pub(crate) struct Hub {
    id: GatewayId,
    status: InternalClient,
    metrics: Metrics,
    bindings: Bindings,
    streams: Mutex<HashMap<ExecutionId, Arc<Stream>>>,
    watch_now: Notify,
}

/// One watched execution.
struct Stream {
    ring: Mutex<Ring>,
    /// Counts changes of the ring.
    changed: watch::Sender<u64>,
    state: Mutex<StreamState>,
}

struct StreamState {
    viewers: usize,
    heard_at: Instant,
    /// The latest event that any viewer has.
    seen: Sequence,
}

/// A viewer of one execution.
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    stream: Arc<Stream>,
    changed: watch::Receiver<u64>,
    subject: Subject,
    after: Sequence,
    replayed: bool,
    registered: bool,
    misses: usize,
    /// The request that watches: its stream is read long after its handler has returned.
    span: Span,
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

    /// Watches an execution from `after` on. What was stored before is replayed first.
    pub(crate) fn subscribe(self: &Arc<Self>, subject: Subject, after: Sequence) -> Subscription {
        let id = subject.execution_id;
        let stream = {
            let mut streams = self.streams.lock();
            let stream = streams.entry(id).or_insert_with(|| {
                let state = StreamState { viewers: 0, heard_at: Instant::now(), seen: after };
                Arc::new(Stream { ring: Mutex::default(), changed: watch::channel(0).0, state: Mutex::new(state) })
            });
            stream.state.lock().viewers += 1;
            Arc::clone(stream)
        };
        self.metrics.subscribers.inc();
        let changed = stream.changed.subscribe();
        Subscription {
            hub: Arc::clone(self),
            stream,
            changed,
            subject,
            after,
            replayed: false,
            registered: false,
            misses: 0,
            span: Span::current(),
        }
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
    let mut bound: HashSet<u16> = HashSet::new();
    loop {
        let period = tokio::time::sleep(Duration::from_millis(WATCH_EVERY_MS));
        let told = tokio::select! {
            () = hub.watch_now.notified() => true,
            () = period => false,
            () = shutdown.abort.cancelled() => return,
        };
        let wanted: HashSet<u16> = hub.streams.lock().keys().map(|id| shard_of(*id)).collect();
        for shard in bound.difference(&wanted) {
            // Hearing too much is harmless; it is tried again when the shard is left the next time.
            drop(hub.bindings.unbind(&topic_of(*shard)).await);
        }
        bound = wanted;
        if let Err(error) = hub.watch().await {
            tracing::debug!(%error, "the leader does not know what is watched");
        }
        if !told {
            hub.look_after(false).await;
        }
    }
}

impl Subscription {
    /// The next events, at least one. Waits for as long as it takes.
    ///
    /// # Errors
    /// When the execution is not the caller's, or status cannot be reached for the first page.
    pub(crate) async fn next(&mut self) -> Result<Vec<Arc<EventRecord>>, Problem> {
        self.register().await;
        loop {
            if !self.replayed {
                let events = self.page().await?;
                if !events.is_empty() {
                    return Ok(self.take(events));
                }
                continue;
            }
            // Marked before the look: what is added after it wakes us again.
            self.changed.mark_unchanged();
            let next = self.stream.ring.lock().after(self.after);
            match next {
                Next::Events(events) => {
                    self.misses = 0;
                    return Ok(self.take(events));
                }
                Next::Hole => {
                    let events = self.fill().await;
                    if !events.is_empty() {
                        return Ok(self.take(events));
                    }
                }
                Next::Nothing => {
                    // The hub never drops a stream that has a viewer.
                    if self.changed.changed().await.is_err() {
                        return Err(failure::unavailable());
                    }
                }
            }
        }
    }

    /// Whose and which.
    pub(crate) const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The last event that was handed out.
    pub(crate) const fn position(&self) -> Sequence {
        self.after
    }

    /// Interest first, then the look: nothing that is committed in between is missed.
    async fn register(&mut self) {
        if self.registered {
            return;
        }
        self.registered = true;
        let topic = topic_of(shard_of(self.subject.execution_id));
        if let Err(error) = self.hub.bindings.bind(&topic).await {
            tracing::debug!(%error, "live events are not heard yet");
        }
        if let Err(error) = self.hub.watch().instrument(self.span.clone()).await {
            tracing::debug!(%error, "the leader does not know what is watched");
            self.hub.watch_now.notify_one();
        }
    }

    /// One page of what is stored.
    async fn page(&mut self) -> Result<Vec<Arc<EventRecord>>, Problem> {
        let page = self.read().await?;
        self.replayed = !page.more;
        Ok(page.events.into_iter().map(Arc::new).collect())
    }

    async fn read(&self) -> Result<EventPage, Problem> {
        self.hub.metrics.fetches.inc();
        let question = ReadEvents { subject: self.subject.clone(), after: self.after, limit: PAGE };
        let asked = self.hub.status.post_json(EVENTS_PATH, &question, WITHIN).instrument(self.span.clone());
        let answer: Found<EventPage> = asked.await.map_err(|error| failure::internal(&error))?;
        crate::executions::found(answer)
    }

    /// Looks a missing event up: at once, then after growing waits.
    async fn fill(&mut self) -> Vec<Arc<EventRecord>> {
        if let Some(wait) = self.misses.checked_sub(1).map(|miss| LOOK_AGAIN.get(miss).copied().unwrap_or(SILENT)) {
            tokio::time::sleep(wait).await;
        }
        self.misses += 1;
        match self.read().await {
            Ok(page) => {
                self.replayed = !page.more;
                page.events.into_iter().map(Arc::new).collect()
            }
            Err(problem) => {
                tracing::debug!(%problem, "a missing event cannot be looked up");
                Vec::new()
            }
        }
    }

    fn take(&mut self, events: Vec<Arc<EventRecord>>) -> Vec<Arc<EventRecord>> {
        if let Some(last) = events.last() {
            self.after = last.sequence;
            let mut state = self.stream.state.lock();
            state.seen = state.seen.max(last.sequence);
        }
        self.hub.metrics.events.inc_by(events.len() as u64);
        events
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.metrics.subscribers.dec();
        let mut streams = self.hub.streams.lock();
        let last = {
            let mut state = self.stream.state.lock();
            state.viewers -= 1;
            state.viewers == 0
        };
        if last {
            streams.remove(&self.subject.execution_id);
        }
    }
}

//! A viewer of one execution: what is stored first, then what is heard, each later event exactly once and in order.

use std::{sync::Arc, time::Duration};

use domain::{EventRecord, Sequence};
use protocol::{
    live::{shard_of, topic_of},
    read::{EVENTS_PATH, EventPage, Found, ReadEvents, Subject},
};
use service::Problem;
use tokio::sync::watch;
use tracing::{Instrument as _, Span};

use crate::{
    executions, failure,
    hub::{Hub, SILENT, Stream, WITHIN},
    ring::Next,
};

/// Events per page of a replay.
const PAGE: u32 = 500;
/// Waits before a missing event is looked up again.
const LOOK_AGAIN: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1)];

/// Some events, in order.
pub(crate) type Events = Vec<Arc<EventRecord>>;

/// A viewer of one execution.
pub(crate) struct Subscription {
    pub(crate) hub: Arc<Hub>,
    pub(crate) stream: Arc<Stream>,
    pub(crate) changed: watch::Receiver<u64>,
    pub(crate) subject: Subject,
    pub(crate) after: Sequence,
    replayed: bool,
    registered: bool,
    misses: usize,
    /// The request that watches: its stream is read long after its handler has returned.
    span: Span,
}

impl Subscription {
    pub(crate) fn new(hub: Arc<Hub>, stream: Arc<Stream>, subject: Subject, after: Sequence) -> Self {
        let changed = stream.changed.subscribe();
        let span = Span::current();
        Self { hub, stream, changed, subject, after, replayed: false, registered: false, misses: 0, span }
    }

    /// The next events; none when nothing will ever come. Waits for as long as it takes.
    ///
    /// # Errors
    /// When the execution is not the caller's, or status cannot be reached for what is stored.
    pub(crate) async fn next(&mut self) -> Result<Events, Problem> {
        self.register().await;
        loop {
            if !self.replayed {
                let page = self.read().await?;
                self.replayed = !page.more;
                if page.terminal || !page.events.is_empty() {
                    return Ok(self.take(page));
                }
                continue;
            }
            // Marked before the look: what is added after it wakes us again.
            self.changed.mark_unchanged();
            let (next, over) = {
                let ring = self.stream.ring.lock();
                (ring.after(self.after), ring.has_ended())
            };
            match next {
                Next::Events(events) => {
                    self.misses = 0;
                    return Ok(self.hand_out(events));
                }
                Next::Hole => {
                    if let Some(page) = self.fill().await
                        && (page.terminal || !page.events.is_empty())
                    {
                        return Ok(self.take(page));
                    }
                }
                // Somebody asked for what comes after a number that will never be reached.
                Next::Nothing if over => return Ok(Vec::new()),
                Next::Nothing => {
                    // The hub never drops a stream that has a viewer.
                    if self.changed.changed().await.is_err() {
                        return Err(failure::unavailable());
                    }
                }
            }
        }
    }

    /// Interest first, then the look: nothing that is committed in between is missed. When it is dropped half-way it is done
    /// again: both steps may be repeated.
    async fn register(&mut self) {
        if self.registered {
            return;
        }
        let topic = topic_of(shard_of(self.subject.execution_id));
        if let Err(error) = self.hub.bindings.bind(&topic).await {
            tracing::debug!(%error, "live events are not heard yet");
        }
        if let Err(error) = self.hub.watch_too(self.subject.execution_id).instrument(self.span.clone()).await {
            tracing::debug!(%error, "the leader does not know what is watched");
            self.hub.watch_now.notify_one();
        }
        self.registered = true;
    }

    async fn read(&self) -> Result<EventPage, Problem> {
        read(&self.hub, &self.subject, self.after).instrument(self.span.clone()).await
    }

    /// Looks a missing event up: at once, then after growing waits.
    async fn fill(&mut self) -> Option<EventPage> {
        if let Some(wait) = self.misses.checked_sub(1).map(|miss| LOOK_AGAIN.get(miss).copied().unwrap_or(SILENT)) {
            tokio::time::sleep(wait).await;
        }
        self.misses += 1;
        match self.read().await {
            Ok(page) => {
                self.replayed = !page.more;
                Some(page)
            }
            Err(problem) => {
                tracing::debug!(%problem, "a missing event cannot be looked up");
                None
            }
        }
    }

    fn take(&mut self, page: EventPage) -> Events {
        self.hand_out(page.events.into_iter().map(Arc::new).collect())
    }

    fn hand_out(&mut self, events: Events) -> Events {
        if let Some(last) = events.last() {
            self.after = last.sequence;
            self.stream.saw(last.sequence);
        }
        self.hub.metrics.events.inc_by(events.len() as u64);
        events
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.leave(&self.stream, self.subject.execution_id);
    }
}

/// One page of what is stored.
///
/// # Errors
/// When the execution is not the caller's, or status cannot be reached.
pub(crate) async fn read(hub: &Hub, subject: &Subject, after: Sequence) -> Result<EventPage, Problem> {
    hub.metrics.fetches.inc();
    let question = ReadEvents { subject: subject.clone(), after, limit: PAGE };
    let answer: Result<Found<EventPage>, _> = hub.status.post_json(EVENTS_PATH, &question, WITHIN).await;
    executions::found(answer.map_err(|error| failure::internal(&error))?)
}

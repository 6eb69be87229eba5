//! The body of an event stream: events as they come, heartbeats, the place in the queue, and an end with a reason.

use std::{pin::Pin, sync::Arc, time::Duration};

use actix_web::web;
use bytes::{BufMut as _, Bytes, BytesMut};
use domain::{EventRecord, ExecutionId, Sequence};
use futures::{Stream, stream};
use protocol::{
    read::{EventPage, Found, QUEUE_PATH, Subject},
    submission::QueueBlock,
};
use serde_json::{Value, json};
use service::Problem;
use tokio::time::{Instant, sleep_until};

use crate::{
    auth::Presented,
    service::Gateway,
    subscription::{Events, Subscription},
    views,
};

/// A comment after this much silence keeps proxies from closing the stream.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often a viewer of a queued execution learns of its place.
const PLACE_EVERY: Duration = Duration::from_secs(2);
/// How long status has to say it.
const PLACE_WITHIN: Duration = Duration::from_secs(1);
/// How often the key is looked at. With the time an answer about it is believed and the time status has to give one this is
/// how long a revoked key may read on.
const KEY_EVERY: Duration = Duration::from_secs(1);

/// The wait for the next events, which brings the subscription back. It is kept across heartbeats: a look-up that was begun
/// is never begun again by a timer.
type Next = Pin<Box<dyn Future<Output = (Subscription, Result<Events, Problem>)>>>;

/// One client of one event stream.
pub(crate) struct Viewer {
    gateway: web::Data<Gateway>,
    key: Presented,
    subject: Subject,
    /// What is there already.
    first: Events,
    /// What comes after it; none when that was all.
    next: Option<Next>,
    position: Sequence,
    queued: bool,
    block: Option<QueueBlock>,
    greeted: bool,
    over: bool,
    beat_at: Instant,
    place_at: Instant,
    key_at: Instant,
}

impl Viewer {
    pub(crate) fn new(
        gateway: web::Data<Gateway>,
        key: Presented,
        subject: Subject,
        after: Sequence,
        page: EventPage,
    ) -> Self {
        let first: Events = page.events.into_iter().map(Arc::new).collect();
        gateway.metrics.events.inc_by(first.len() as u64);
        let position = first.last().map_or(after, |last| last.sequence);
        let next = (!page.terminal).then(|| {
            // A client may claim to have seen what there is not: the others' look-ups must not begin behind it.
            let seen = page.last.map_or(position, |last| last.min(position));
            wait_for(gateway.hub.subscribe(subject.clone(), position, seen))
        });
        let now = Instant::now();
        Self {
            // Whoever never started has events of epoch 0 only.
            queued: position.epoch() == 0 && first.iter().all(|event| event.name == "execution.queued"),
            gateway,
            key,
            subject,
            first,
            next,
            position,
            block: None,
            greeted: false,
            over: false,
            beat_at: now + HEARTBEAT,
            place_at: now + PLACE_EVERY,
            key_at: now + KEY_EVERY,
        }
    }

    /// The stream, piece by piece: a slow client takes from the ring, or from the log, when it is ready.
    pub(crate) fn into_body(self) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
        stream::unfold(self, |mut viewer| async move {
            if viewer.over {
                return None;
            }
            let chunk = viewer.chunk().await;
            viewer.beat_at = Instant::now() + HEARTBEAT;
            Some((Ok(chunk), viewer))
        })
    }

    async fn chunk(&mut self) -> Bytes {
        if !self.greeted {
            self.greeted = true;
            return Bytes::from_static(b"retry: 2000\n\n");
        }
        if !self.first.is_empty() {
            let first = std::mem::take(&mut self.first);
            return self.show(&first);
        }
        let drain = self.gateway.shutdown.drain.clone();
        loop {
            let wake = self.wake_at();
            let Some(next) = &mut self.next else { return self.end("this was all") };
            tokio::select! {
                biased;
                (subscription, result) = next => {
                    return match result {
                        Ok(events) if events.is_empty() => self.end("this was all"),
                        Ok(events) => {
                            self.next = Some(wait_for(subscription));
                            self.show(&events)
                        }
                        // The client comes back with its last id.
                        Err(_) => self.end("the stream has to be opened again"),
                    };
                }
                () = drain.cancelled() => return self.end("this gateway is going away"),
                () = sleep_until(wake) => {
                    if let Some(bytes) = self.tick().await {
                        return bytes;
                    }
                }
            }
        }
    }

    fn wake_at(&self) -> Instant {
        let at = self.beat_at.min(self.key_at);
        if self.queued { at.min(self.place_at) } else { at }
    }

    /// What is due by now.
    async fn tick(&mut self) -> Option<Bytes> {
        let now = Instant::now();
        if self.key_at <= now {
            self.key_at = now + KEY_EVERY;
            if self.gateway.keys.is_gone(&self.key).await {
                return Some(self.end("the key is not valid any more"));
            }
        }
        if self.queued && self.place_at <= now {
            self.place_at = now + PLACE_EVERY;
            return Some(self.place().await);
        }
        (self.beat_at <= now).then(|| comment(""))
    }

    fn show(&mut self, events: &[Arc<EventRecord>]) -> Bytes {
        let mut bytes = BytesMut::new();
        for event in events {
            write(&mut bytes, event, self.subject.execution_id);
            self.over |= event.is_terminal();
            self.queued &= event.name == "execution.queued";
            self.position = event.sequence;
        }
        bytes.freeze()
    }

    fn end(&mut self, reason: &str) -> Bytes {
        self.over = true;
        self.next = None;
        comment(reason)
    }

    /// The place in the queue, when it changed.
    async fn place(&mut self) -> Bytes {
        let ask = self.gateway.status.post_json(QUEUE_PATH, &self.subject, PLACE_WITHIN);
        let answer: Result<Found<Option<QueueBlock>>, _> = ask.await;
        let Ok(Found::Found(Some(block))) = answer else { return comment("") };
        let same = self.block.as_ref().is_some_and(|last| {
            (last.position, last.ahead, &last.waiting_reason) == (block.position, block.ahead, &block.waiting_reason)
        });
        if same {
            return comment("");
        }
        let data: Value = json!({
            "executionId": self.subject.execution_id,
            "queue": views::queue(&block),
            "afterSequence": self.position,
        });
        self.block = Some(block);
        Bytes::from(format!("event: execution.queueUpdated\ndata: {data}\n\n"))
    }
}

fn wait_for(mut subscription: Subscription) -> Next {
    Box::pin(async move {
        let result = subscription.next().await;
        (subscription, result)
    })
}

fn comment(text: &str) -> Bytes {
    Bytes::from(format!(": {text}\n\n"))
}

/// One event. Its data is one line: JSON escapes line ends.
fn write(bytes: &mut BytesMut, event: &EventRecord, execution: ExecutionId) {
    bytes.put_slice(format!("id: {}\nevent: ", event.sequence.0).as_bytes());
    bytes.put_slice(event.name.as_bytes());
    bytes.put_slice(b"\ndata: ");
    bytes.put_slice(event.data(execution).as_bytes());
    bytes.put_slice(b"\n\n");
}

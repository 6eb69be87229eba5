//! A run's hand on its book: what it writes is numbered under one lock, so the order of numbers is the order of reporting.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use std::time::Duration;

use domain::{EventBody, ExecutionId, Sequence, UnitKey};
use parking_lot::Mutex;
use protocol::report::{Finish, Progress, Report, UnitReport, UsageRow, Verdict};
use tokio::sync::watch;

use super::{
    LINE_BYTES, Outbox, TOTAL_BYTES,
    book::{Book, Phase, Taken},
};

/// Events that nobody waits for ride with the next unit, or go after this time.
const EVENT_AFTER: Duration = Duration::from_millis(25);
/// Text is gathered for this long while somebody watches.
const WATCHED_AFTER: Duration = Duration::from_millis(50);
/// Text is gathered for this long while nobody watches.
const UNWATCHED_AFTER: Duration = Duration::from_secs(1);

/// The attempt is fenced: nobody listens to it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

#[derive(Debug, Clone, Copy)]
struct Mark {
    acknowledged: u64,
    phase: Phase,
}

/// The report stream of one attempt.
pub(crate) struct Line {
    outbox: Arc<Outbox>,
    execution_id: ExecutionId,
    epoch: i32,
    book: Mutex<Book>,
    mark: watch::Sender<Mark>,
    /// Whether it is in the outbox's queue already.
    queued: AtomicBool,
    /// When the wheel makes it due; 0 when it does not. The wheel's lock guards it.
    pub(super) due_at: AtomicU64,
}

impl Line {
    pub(super) fn new(outbox: Arc<Outbox>, execution_id: ExecutionId, epoch: i32, last: Sequence) -> Arc<Self> {
        Arc::new(Self {
            outbox,
            execution_id,
            epoch,
            book: Mutex::new(Book::new(execution_id, epoch, last)),
            mark: watch::Sender::new(Mark { acknowledged: 0, phase: Phase::Open }),
            queued: AtomicBool::new(false),
            due_at: AtomicU64::new(0),
        })
    }

    pub(crate) const fn execution_id(&self) -> ExecutionId {
        self.execution_id
    }

    pub(crate) const fn epoch(&self) -> i32 {
        self.epoch
    }

    /// Writes an event that nobody waits for.
    pub(crate) fn event(self: &Arc<Self>, body: EventBody) {
        self.write(|book, now| book.event(body, now));
        self.later(EVENT_AFTER);
    }

    /// Writes an event that is to be seen at once.
    pub(crate) fn urgent(self: &Arc<Self>, body: EventBody) {
        self.write(|book, now| book.event(body, now));
        self.send();
    }

    /// Adds streamed text of a unit.
    pub(crate) fn text(self: &Arc<Self>, key: &UnitKey, text: &str) {
        let (flushed, watched) = self.write(|book, now| (book.text(key, text, now), book.is_watched()));
        if flushed {
            self.send();
        } else {
            self.later(if watched { WATCHED_AFTER } else { UNWATCHED_AFTER });
        }
    }

    /// What was shown of a unit is void.
    pub(crate) fn reset(self: &Arc<Self>, key: &UnitKey, reason: &str) {
        self.write(|book, now| book.reset(key, reason, now));
        self.later(EVENT_AFTER);
    }

    /// Ends a unit with the events that say so; what is returned is for [`Line::acknowledged`].
    pub(crate) fn unit(
        self: &Arc<Self>,
        unit: UnitReport,
        events: impl IntoIterator<Item = EventBody>,
        progress: Option<Progress>,
    ) -> u64 {
        let place = self.write(|book, now| {
            let place = book.unit(unit, now);
            for event in events {
                book.event(event, now);
            }
            if let Some(progress) = progress {
                book.progress(progress);
            }
            place
        });
        self.send();
        place
    }

    /// A provider call is over.
    pub(crate) fn usage(self: &Arc<Self>, row: UsageRow) {
        let alone = self.write(|book, _| {
            book.usage(row);
            book.phase() == Phase::Lost
        });
        if alone {
            // Nothing follows that it could ride with, and the run may be gone before the timer comes.
            self.send();
        } else {
            self.later(EVENT_AFTER);
        }
    }

    /// How far it is.
    pub(crate) fn progress(self: &Arc<Self>, progress: Progress) {
        self.write(|book, _| book.progress(progress));
        self.later(EVENT_AFTER);
    }

    /// Ends the attempt.
    pub(crate) fn finish(self: &Arc<Self>, finish: Finish, progress: Option<Progress>) {
        self.write(|book, now| {
            if let Some(progress) = progress {
                book.progress(progress);
            }
            book.finish(finish, now);
        });
        self.send();
    }

    /// The attempt is fenced.
    pub(crate) fn lose(self: &Arc<Self>) {
        let rest = self.write(|book, _| {
            book.lose();
            book.has_news()
        });
        self.publish_mark();
        self.outbox.room.notify_waiters();
        if rest {
            self.send();
        }
    }

    /// Returns when the first `place` units are acknowledged.
    ///
    /// # Errors
    /// [`Gone`] when the attempt is fenced first.
    pub(crate) async fn acknowledged(&self, place: u64) -> Result<(), Gone> {
        let mut mark = self.mark.subscribe();
        loop {
            let Mark { acknowledged, phase } = *mark.borrow_and_update();
            if acknowledged >= place {
                return Ok(());
            }
            if phase == Phase::Lost || mark.changed().await.is_err() {
                return Err(Gone);
            }
        }
    }

    /// Returns when the finish is stored, or the attempt is fenced.
    pub(crate) async fn ended(&self) -> Phase {
        let mut mark = self.mark.subscribe();
        loop {
            let phase = mark.borrow_and_update().phase;
            if phase != Phase::Open || mark.changed().await.is_err() {
                return phase;
            }
        }
    }

    /// Returns when there is room for more.
    pub(crate) async fn room(&self) {
        while !self.has_room() {
            let room = self.outbox.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            // Registered before the look: an acknowledgement in between is not overslept.
            if !self.has_room() {
                room.await;
            }
        }
    }

    fn has_room(&self) -> bool {
        self.outbox.bytes() < TOTAL_BYTES && self.book.lock().bytes() < LINE_BYTES
    }

    /// Somebody watches the execution, or nobody does any more.
    pub(crate) fn watch(self: &Arc<Self>, watched: bool) {
        let waits = self.write(|book, _| {
            let begins = watched && !book.is_watched();
            book.watch(watched);
            begins && book.has_text()
        });
        if waits {
            self.later(WATCHED_AFTER);
        }
    }

    /// The verdict on the report taken last.
    pub(crate) fn settle(self: &Arc<Self>, report: Report, bytes: usize, verdict: &Verdict) {
        let again = self.write(|book, _| {
            book.settle(Taken { report, bytes }, verdict);
            book.has_news()
        });
        self.publish_mark();
        if again && verdict.standing == protocol::report::Standing::Gap {
            self.send();
        }
    }

    pub(super) fn take(self: &Arc<Self>, limit: usize) -> Option<Taken> {
        // Reset before the book is read: what is written from here on queues the line again.
        self.queued.store(false, Ordering::Release);
        let (taken, more) = {
            let mut book = self.book.lock();
            (book.take(limit), book.has_news())
        };
        if more {
            self.send();
        }
        taken
    }

    /// Its time has come: text that waits goes into events, and everything is sent.
    pub(super) fn due(self: &Arc<Self>) {
        if self.write(|book, now| {
            book.flush_texts(now);
            book.has_news()
        }) {
            self.send();
        }
    }

    fn send(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.outbox.queue(Arc::clone(self));
        }
    }

    fn later(self: &Arc<Self>, after: Duration) {
        self.outbox.wheel.schedule(self, after);
    }

    fn write<R>(&self, change: impl FnOnce(&mut Book, chrono::DateTime<chrono::Utc>) -> R) -> R {
        let now = self.outbox.now();
        let mut book = self.book.lock();
        let before = book.bytes();
        let result = change(&mut book, now);
        self.outbox.grew(before, book.bytes());
        result
    }

    fn publish_mark(&self) {
        let (acknowledged, phase) = {
            let book = self.book.lock();
            (book.acknowledged(), book.phase())
        };
        self.mark.send_if_modified(|mark| {
            let changed = mark.acknowledged != acknowledged || mark.phase != phase;
            *mark = Mark { acknowledged, phase };
            changed
        });
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.outbox.grew(self.book.get_mut().bytes(), 0);
    }
}

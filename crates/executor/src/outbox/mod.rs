//! What the attempts of this executor have to report, and when: the seam between runs and the report stream.
//!
//! `text` gathers streamed text, `book` keeps what one attempt has to say, `line` gives a run its hand on it, `wheel` is
//! the one timer of all lines.

mod book;
mod line;
mod text;
mod wheel;

#[cfg(test)]
mod book_tests;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use chrono::{DateTime, Utc};
use domain::{ExecutionId, Sequence};
use parking_lot::Mutex;
use protocol::report::Report;
use service::Clock;
use tokio::sync::Notify;

pub(crate) use book::{Phase, Taken};
pub(crate) use line::{Gone, Line};
pub(crate) use wheel::TICK;
use wheel::Wheel;

/// Above this many unacknowledged bytes a run waits.
pub(crate) const LINE_BYTES: usize = 1 << 20;
/// Above this many unacknowledged bytes of all runs together, all wait.
pub(crate) const TOTAL_BYTES: usize = 64 << 20;
/// About how large one request gets.
const REQUEST_BYTES: usize = 8 << 20;
/// How many executions one request carries at most.
const REQUEST_REPORTS: usize = 1_024;

/// A report under way, with the line it is from.
pub(crate) struct Sent {
    pub(crate) line: Arc<Line>,
    /// How many bytes of the line it is.
    pub(crate) bytes: usize,
}

/// All lines of this executor.
pub(crate) struct Outbox {
    clock: Arc<dyn Clock>,
    bytes: AtomicUsize,
    /// Whether a request is under way.
    sending: AtomicBool,
    /// Lines with something to send.
    news: Mutex<VecDeque<Arc<Line>>>,
    has_news: Notify,
    /// Some bytes were acknowledged.
    room: Notify,
    wheel: Wheel,
}

impl Outbox {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            bytes: AtomicUsize::new(0),
            sending: AtomicBool::new(false),
            news: Mutex::default(),
            has_news: Notify::new(),
            room: Notify::new(),
            wheel: Wheel::new(),
        })
    }

    /// Opens the line of an attempt.
    pub(crate) fn open(self: &Arc<Self>, id: ExecutionId, epoch: i32, last: Sequence) -> Arc<Line> {
        Line::new(Arc::clone(self), id, epoch, last)
    }

    /// Returns when some line has something to send.
    pub(crate) async fn news(&self) {
        while self.is_silent() {
            self.has_news.notified().await;
        }
    }

    /// Whether no line has anything to send.
    fn is_silent(&self) -> bool {
        self.news.lock().is_empty()
    }

    /// What there is to send now, at most one report per line.
    pub(crate) fn take(&self) -> (Vec<Sent>, Vec<Report>) {
        let (mut sent, mut reports, mut size) = (Vec::new(), Vec::new(), 0);
        while size < REQUEST_BYTES && reports.len() < REQUEST_REPORTS {
            let Some(line) = self.news.lock().pop_front() else { break };
            if let Some(Taken { report, bytes }) = line.take(REQUEST_BYTES) {
                size += bytes;
                reports.push(report);
                sent.push(Sent { line, bytes });
            }
        }
        self.sending.store(!sent.is_empty(), Ordering::Release);
        (sent, reports)
    }

    /// Whether everything is sent and answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_silent() && !self.sending.load(Ordering::Acquire)
    }

    /// Unacknowledged bytes of all lines.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The request is answered: wakes the runs that wait for room.
    pub(crate) fn settled(&self) {
        self.sending.store(false, Ordering::Release);
        self.room.notify_waiters();
    }

    /// One step of the timer: lines that are due make events of their text and are sent.
    pub(crate) fn tick(&self) {
        for line in self.wheel.advance() {
            line.due();
        }
    }

    fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    fn queue(&self, line: Arc<Line>) {
        self.news.lock().push_back(line);
        self.has_news.notify_one();
    }

    fn grew(&self, before: usize, after: usize) {
        if after >= before {
            self.bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

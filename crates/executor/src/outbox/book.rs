//! What one attempt has to report: numbered, in order, kept until it is stored. Pure: no clock, no network.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use domain::{Event, EventBody, EventRecord, ExecutionId, Sequence, UnitKey};
use protocol::report::{Finish, Progress, Report, Standing, UnitReport, UsageRow, Verdict};

use super::text::Stream;

/// What a row costs besides its text.
const ROW_BYTES: usize = 160;

/// Where an attempt's reporting is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everything is taken.
    Open,
    /// The attempt is fenced: only usage rows are sent, everything else is void.
    Lost,
    /// The finish is stored.
    Over,
}

/// The unacknowledged part of one attempt's report stream.
#[derive(Debug)]
pub(crate) struct Book {
    execution_id: ExecutionId,
    epoch: i32,
    /// The last event numbered.
    last: Sequence,
    phase: Phase,
    watched: bool,
    streams: Vec<Stream>,
    events: VecDeque<EventRecord>,
    units: VecDeque<UnitReport>,
    usage: Vec<UsageRow>,
    progress: Option<Progress>,
    finish: Option<Finish>,
    /// Units written so far; their place in this count is what a run waits for.
    written: u64,
    /// Units acknowledged.
    acknowledged: u64,
    /// Bytes not acknowledged, the ones under way included.
    bytes: usize,
}

/// A report under way, to be sent until its verdict is known.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) report: Report,
    pub(crate) bytes: usize,
}

impl Book {
    /// The book of an attempt that continues after `last`.
    pub(crate) fn new(execution_id: ExecutionId, epoch: i32, last: Sequence) -> Self {
        Self {
            execution_id,
            epoch,
            last,
            phase: Phase::Open,
            watched: false,
            streams: Vec::new(),
            events: VecDeque::new(),
            units: VecDeque::new(),
            usage: Vec::new(),
            progress: None,
            finish: None,
            written: 0,
            acknowledged: 0,
            bytes: 0,
        }
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(crate) const fn is_watched(&self) -> bool {
        self.watched
    }

    /// Somebody watches the execution, or nobody does any more.
    pub(crate) const fn watch(&mut self, watched: bool) {
        self.watched = watched;
    }

    /// Whether there is something to send.
    pub(crate) fn has_news(&self) -> bool {
        !self.events.is_empty()
            || !self.units.is_empty()
            || !self.usage.is_empty()
            || self.progress.is_some()
            || self.finish.is_some()
    }

    /// Whether text waits for its event.
    pub(crate) fn has_text(&self) -> bool {
        self.streams.iter().any(|stream| stream.len() > 0)
    }

    /// Numbers an event. After the finish nothing is written any more.
    pub(crate) fn event(&mut self, body: EventBody, at: DateTime<Utc>) {
        if self.phase != Phase::Open || self.finish.is_some() {
            return;
        }
        let sequence = self.last.next_in(self.epoch);
        let event = Event { sequence, prev: self.last, execution_id: self.execution_id, attempt: self.epoch, at, body };
        match event.record() {
            Ok(record) => {
                self.last = sequence;
                self.bytes += record.size() + ROW_BYTES;
                self.events.push_back(record);
            }
            Err(error) => tracing::error!(%error, execution.id = %self.execution_id, "an event cannot be written"),
        }
    }

    /// Adds streamed text of a unit. `true` when an event was made of it at once.
    pub(crate) fn text(&mut self, key: &UnitKey, text: &str, at: DateTime<Utc>) -> bool {
        if self.phase != Phase::Open {
            return false;
        }
        let watched = self.watched;
        if !self.streams.iter().any(|stream| stream.key == *key) {
            self.streams.push(Stream::new(key.clone()));
        }
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.key == *key) else { return false };
        self.bytes += text.len();
        let now = stream.push(text, watched);
        if now {
            self.flush_text_of(key, at);
        }
        now
    }

    /// Makes events of all text that waits.
    pub(crate) fn flush_texts(&mut self, at: DateTime<Utc>) {
        for place in 0..self.streams.len() {
            self.flush(place, at);
        }
    }

    /// Makes an event of the text of one unit that waits.
    pub(crate) fn flush_text_of(&mut self, key: &UnitKey, at: DateTime<Utc>) {
        if let Some(place) = self.streams.iter().position(|stream| stream.key == *key) {
            self.flush(place, at);
        }
    }

    fn flush(&mut self, place: usize, at: DateTime<Utc>) {
        let Some(stream) = self.streams.get_mut(place) else { return };
        let Some(piece) = stream.take() else { return };
        let UnitKey { node, unit } = stream.key.clone();
        // The text is counted once more with its event.
        self.bytes = self.bytes.saturating_sub(piece.text.len());
        self.event(EventBody::OutputDelta { node, unit, text: piece.text, offset: piece.offset }, at);
    }

    /// What was shown of a unit is void; its text begins anew.
    pub(crate) fn reset(&mut self, key: &UnitKey, reason: &str, at: DateTime<Utc>) {
        self.flush_text_of(key, at);
        self.streams.retain(|stream| stream.key != *key);
        let UnitKey { node, unit } = key.clone();
        self.event(EventBody::OutputReset { node, unit, offset: 0, reason: reason.to_owned() }, at);
    }

    /// Ends a unit: its text goes before it. Returns its place for [`Book::acknowledged`].
    pub(crate) fn unit(&mut self, unit: UnitReport, at: DateTime<Utc>) -> u64 {
        self.flush_text_of(&unit.key, at);
        self.streams.retain(|stream| stream.key != unit.key);
        if self.phase == Phase::Open && self.finish.is_none() {
            self.bytes += unit.output.get().len() + ROW_BYTES;
            self.units.push_back(unit);
            self.written += 1;
        }
        self.written
    }

    /// A provider call is over. Taken also of a fenced attempt: its tokens were used.
    pub(crate) fn usage(&mut self, row: UsageRow) {
        if self.phase != Phase::Over {
            self.bytes += ROW_BYTES;
            self.usage.push(row);
        }
    }

    /// How far it is.
    pub(crate) fn progress(&mut self, progress: Progress) {
        if self.phase == Phase::Open {
            self.progress = Some(progress);
        }
    }

    /// Ends the attempt.
    pub(crate) fn finish(&mut self, finish: Finish, at: DateTime<Utc>) {
        self.flush_texts(at);
        if self.phase == Phase::Open && self.finish.is_none() {
            if let Finish::Completed { result, .. } = &finish {
                self.bytes += result.get().len();
            }
            self.bytes += ROW_BYTES;
            self.finish = Some(finish);
        }
    }

    /// Everything but usage rows is void from now on.
    pub(crate) fn lose(&mut self) {
        if self.phase != Phase::Open {
            return;
        }
        self.phase = Phase::Lost;
        self.streams.clear();
        self.events.clear();
        self.units.clear();
        self.progress = None;
        self.finish = None;
        self.bytes = self.usage.len() * ROW_BYTES;
    }

    /// Takes what there is to send, about `limit` bytes of it: events first, so that a unit never overtakes its text, and
    /// the finish last.
    pub(crate) fn take(&mut self, limit: usize) -> Option<Taken> {
        if !self.has_news() {
            return None;
        }
        let mut bytes = 0;
        let mut events = Vec::new();
        while bytes < limit
            && let Some(record) = self.events.pop_front()
        {
            bytes += record.size() + ROW_BYTES;
            events.push(record);
        }
        let mut units = Vec::new();
        while bytes < limit
            && let Some(unit) = self.units.pop_front()
        {
            bytes += unit.output.get().len() + ROW_BYTES;
            units.push(unit);
        }
        let usage = std::mem::take(&mut self.usage);
        bytes += usage.len() * ROW_BYTES;
        let complete = self.events.is_empty() && self.units.is_empty();
        let finish = if complete { self.finish.take() } else { None };
        if let Some(finish) = &finish {
            bytes += ROW_BYTES + result_bytes(finish);
        }
        let progress = self.progress.take();
        let (execution_id, epoch) = (self.execution_id, self.epoch);
        Some(Taken { report: Report { execution_id, epoch, events, units, usage, progress, finish }, bytes })
    }

    /// The verdict on a report that was taken from this book, and on none since.
    pub(crate) fn settle(&mut self, taken: Taken, verdict: &Verdict) {
        if self.phase != Phase::Open {
            // Lost in the meantime: its usage rows were taken with this report.
            self.bytes = self.usage.len() * ROW_BYTES;
            return;
        }
        match verdict.standing {
            Standing::Held | Standing::Cancelling => {
                self.acknowledged += taken.report.units.len() as u64;
                self.bytes = self.bytes.saturating_sub(taken.bytes);
            }
            Standing::Over => {
                self.acknowledged = self.written;
                self.phase = Phase::Over;
                self.bytes = 0;
            }
            Standing::Lost => self.lose(),
            Standing::Gap => self.send_again(taken, verdict.stored_through),
        }
    }

    /// Puts back what was not taken. If the hole lies before all that is kept, nobody can close it any more.
    fn send_again(&mut self, taken: Taken, stored: Sequence) {
        let Report { events, units, usage, progress, finish, .. } = taken.report;
        for unit in units.into_iter().rev() {
            self.units.push_front(unit);
        }
        for record in events.into_iter().rev() {
            self.events.push_front(record);
        }
        while self.events.front().is_some_and(|record| record.sequence <= stored) {
            if let Some(record) = self.events.pop_front() {
                self.bytes = self.bytes.saturating_sub(record.size() + ROW_BYTES);
            }
        }
        self.usage.splice(0..0, usage);
        self.progress = self.progress.take().or(progress);
        self.finish = self.finish.take().or(finish);
        let first = self.events.front().map_or(self.last, |record| record.prev);
        if first != stored {
            tracing::error!(execution.id = %self.execution_id, "the log has a hole that this executor cannot close");
            self.lose();
        }
    }
}

fn result_bytes(finish: &Finish) -> usize {
    if let Finish::Completed { result, .. } = finish { result.get().len() } else { 0 }
}

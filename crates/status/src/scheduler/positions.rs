//! What others are told about the queue: places, positions, numbers.

use chrono::{DateTime, Utc};
use domain::{ExecutionId, UserId};
use protocol::submission::{Eta, QueueBlock};

use super::{Place, Schedule, rank};

impl Schedule {
    /// How many are queued, in all.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.entries.len().saturating_sub(self.running)
    }

    /// How many executors hold.
    #[must_use]
    pub const fn running(&self) -> usize {
        self.running
    }

    /// How many of an owner are queued.
    #[must_use]
    pub fn queued_of(&self, user: UserId) -> usize {
        // Released ones count as active: at most a window of them.
        self.owners.get(&user).map_or(0, |owner| owner.ranked.len() + owner.limited.len() + owner.later)
    }

    /// Where an execution stands; `None` when it is not here.
    #[must_use]
    pub fn place(&self, id: ExecutionId) -> Option<Place> {
        self.entries.get(&id).map(|entry| entry.place)
    }

    /// Up to `count` of the executions it knows, from place `before` downwards, for the comparison with the ledger; with the place
    /// to go on from. Between two calls anything may come and go: what was there all the time is seen, because a removal only
    /// moves the last one to a lower place.
    #[must_use]
    pub fn slice(&self, before: usize, count: usize) -> (Vec<ExecutionId>, usize) {
        let end = before.min(self.entries.len());
        let start = end.saturating_sub(count);
        let ids = self.entries.get_range(start..end).map(|slice| slice.keys().copied().collect());
        (ids.unwrap_or_default(), start)
    }

    /// Where a queued execution stands, and how long it will probably take; `None` when it is not queued.
    #[must_use]
    pub fn block(&self, id: ExecutionId, now: DateTime<Utc>) -> Option<QueueBlock> {
        let entry = self.entries.get(&id)?;
        let key = rank(&entry.job);
        let owner = self.owners.get(&entry.job.user)?;
        let block = |position: Option<u64>, ahead: u64, reason: &str| QueueBlock {
            position,
            ahead,
            eta_ms: position.map(|_| self.eta(ahead)),
            waiting_reason: reason.to_owned(),
            as_of: now,
        };
        Some(match entry.place {
            Place::Running => return None,
            Place::Released(at) => {
                let ahead = self.released_before(at, id);
                block(Some(ahead + 1), ahead, "starting")
            }
            Place::Ranked => {
                let ahead = (self.released_count + self.ranked.rank(&key)) as u64;
                block(Some(ahead + 1), ahead, "no_capacity")
            }
            Place::Limited => {
                let own = owner.limited.rank(&key) + owner.ranked.len();
                block(None, (own + owner.active) as u64, "user_limit")
            }
            Place::Later(_) => block(None, 0, "retry"),
        })
    }

    fn released_before(&self, at: DateTime<Utc>, id: ExecutionId) -> u64 {
        let current = |(at, id): &(DateTime<Utc>, ExecutionId)| {
            self.entries.get(id).is_some_and(|entry| entry.place == Place::Released(*at))
        };
        self.released.iter().take_while(|release| **release != (at, id)).filter(|r| current(r)).count() as u64
    }

    /// Work ahead through the slots there are. The spread is that of an exponential service time.
    fn eta(&self, ahead: u64) -> Eta {
        let slots = f64::from(self.slots.max(1));
        let ahead = f64::from(u32::try_from(ahead).unwrap_or(u32::MAX));
        let wait = if self.free() > 0 && ahead < slots { 0.0 } else { (ahead + 1.0) / slots * self.fair.mean_cost() };
        Eta { p50: milliseconds(wait), p90: milliseconds(wait * 2.3) }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
fn milliseconds(value: f64) -> u64 {
    value.clamp(0.0, 1e15) as u64
}

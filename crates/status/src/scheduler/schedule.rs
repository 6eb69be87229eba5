//! The queue that the leader keeps in memory: who may run now, in which order, and why the others wait.

use std::collections::{BTreeSet, HashMap, VecDeque};

use chrono::{DateTime, Utc};
use domain::{EngineId, ExecutionId, UserId};
use protocol::submission::{Eta, QueueBlock};

use super::{
    fair::Fair,
    ranked::{Rank, Ranked},
};

/// A release that nobody claimed for this long is published again.
const CLAIM_WITHIN_MS: i64 = 2_000;

/// What the queue has to know of an execution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Job {
    /// Which execution.
    pub id: ExecutionId,
    /// The owner.
    pub user: UserId,
    /// The engine.
    pub engine: EngineId,
    /// Virtual start time.
    pub tag: f64,
    /// The owner's weight times that of the priority.
    pub share: f64,
    /// Executions of the owner at once.
    pub limit: Option<u32>,
    /// Whether it ran before: then it goes in front.
    pub started: bool,
}

/// Where an execution stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// May run now: it has a rank.
    Ranked,
    /// Behind the limit of its owner.
    Limited,
    /// Not before this instant.
    Later(DateTime<Utc>),
    /// Offered to executors since this instant.
    Released(DateTime<Utc>),
    /// Held by an executor.
    Running,
}

#[derive(Debug, Clone)]
struct Entry {
    job: Job,
    place: Place,
}

#[derive(Debug, Clone, Default)]
struct Owner {
    /// Released or running.
    active: u32,
    ranked: BTreeSet<Rank>,
    limited: BTreeSet<Rank>,
    later: u32,
}

/// The queue.
#[derive(Debug, Clone, Default)]
pub struct Schedule {
    fair: Fair,
    entries: HashMap<ExecutionId, Entry>,
    owners: HashMap<UserId, Owner>,
    ranked: Ranked,
    later: BTreeSet<(DateTime<Utc>, ExecutionId)>,
    released: VecDeque<(DateTime<Utc>, ExecutionId)>,
    released_count: usize,
    running: usize,
    slots: u32,
}

impl Schedule {
    /// The tag of an owner's next execution.
    pub fn tag(&mut self, user: UserId, engine: EngineId, share: f64) -> f64 {
        self.fair.tag(user, engine, share)
    }

    /// Adds an execution that is queued; `eligible` when it has to wait until then.
    pub fn queue(&mut self, job: Job, eligible: Option<DateTime<Utc>>) {
        self.remove(job.id);
        self.fair.restore(job.user, job.engine, job.share, job.tag);
        let place = match eligible {
            Some(at) => {
                self.later.insert((at, job.id));
                self.owner(job.user).later += 1;
                Place::Later(at)
            }
            None => {
                self.owner(job.user).limited.insert(rank(&job));
                Place::Limited
            }
        };
        self.entries.insert(job.id, Entry { job, place });
        self.fill(job.user);
    }

    /// Adds an execution that an executor holds: after a restart.
    pub fn run(&mut self, job: Job) {
        self.remove(job.id);
        self.fair.restore(job.user, job.engine, job.share, job.tag);
        self.owner(job.user).active += 1;
        self.running += 1;
        self.entries.insert(job.id, Entry { job, place: Place::Running });
    }

    /// Takes up to `count` executions for release, in order of rank.
    pub fn release(&mut self, count: usize, now: DateTime<Utc>) -> Vec<ExecutionId> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let Some(first) = self.ranked.first() else { break };
            self.ranked.remove(&first);
            let Some(entry) = self.entries.get_mut(&first.id) else { continue };
            entry.place = Place::Released(now);
            let user = entry.job.user;
            self.fair.released(first.tag);
            let owner = self.owner(user);
            owner.ranked.remove(&first);
            owner.active += 1;
            self.released.push_back((now, first.id));
            self.released_count += 1;
            taken.push(first.id);
        }
        taken
    }

    /// Releases that nobody claimed in time: to be published again.
    pub fn overdue(&mut self, now: DateTime<Utc>) -> Vec<ExecutionId> {
        let mut again = Vec::new();
        while let Some((at, id)) = self.released.front().copied() {
            let current = self.entries.get(&id).is_some_and(|entry| entry.place == Place::Released(at));
            if current && (now - at).num_milliseconds() < CLAIM_WITHIN_MS {
                break;
            }
            self.released.pop_front();
            if current {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.place = Place::Released(now);
                }
                self.released.push_back((now, id));
                again.push(id);
            }
        }
        again
    }

    /// Whether an executor may claim it: it is released.
    #[must_use]
    pub fn is_released(&self, id: ExecutionId) -> bool {
        self.entries.get(&id).is_some_and(|entry| matches!(entry.place, Place::Released(_)))
    }

    /// An executor holds a released execution now.
    pub fn claimed(&mut self, id: ExecutionId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            if matches!(entry.place, Place::Released(_)) {
                self.released_count -= 1;
                self.running += 1;
            }
            entry.place = Place::Running;
            entry.job.started = true;
        }
    }

    /// An attempt is over. Returns the job, for one that comes back.
    pub fn ended(&mut self, id: ExecutionId, slot_ms: Option<i64>) -> Option<Job> {
        let job = self.entries.get(&id).map(|entry| entry.job)?;
        if let Some(ms) = slot_ms {
            let ms = f64::from(i32::try_from(ms.max(1)).unwrap_or(i32::MAX));
            self.fair.ran(job.user, job.engine, job.share, ms);
        }
        self.remove(id);
        Some(job)
    }

    /// Takes an execution out, wherever it stands.
    pub fn remove(&mut self, id: ExecutionId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        let (user, key) = (entry.job.user, rank(&entry.job));
        match entry.place {
            Place::Ranked => {
                self.ranked.remove(&key);
                self.owner(user).ranked.remove(&key);
            }
            Place::Limited => {
                self.owner(user).limited.remove(&key);
            }
            Place::Later(at) => {
                self.later.remove(&(at, id));
                self.owner(user).later -= 1;
            }
            // The place in `released` is found stale when its turn comes.
            Place::Released(_) => {
                self.released_count -= 1;
                self.owner(user).active -= 1;
            }
            Place::Running => {
                self.running -= 1;
                self.owner(user).active -= 1;
            }
        }
        self.fill(user);
        let idle = self.owners.get(&user).is_some_and(|owner| {
            owner.active == 0 && owner.later == 0 && owner.ranked.is_empty() && owner.limited.is_empty()
        });
        if idle {
            self.owners.remove(&user);
            self.fair.forget(user);
        }
    }

    /// Lets in what had to wait until now.
    pub fn mature(&mut self, now: DateTime<Utc>) {
        while let Some((at, id)) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.later.remove(&(at, id));
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.place = Place::Limited;
            let job = entry.job;
            let owner = self.owner(job.user);
            owner.later -= 1;
            owner.limited.insert(rank(&job));
            self.fill(job.user);
        }
    }

    /// When [`mature`](Self::mature) has something to do.
    #[must_use]
    pub fn next_eligible(&self) -> Option<DateTime<Utc>> {
        self.later.first().map(|(at, _)| *at)
    }

    /// How many slots all executors have together.
    pub const fn set_slots(&mut self, slots: u32) {
        self.slots = slots;
    }

    /// How many more may be released now: the free slots, and a few more so that a slot that becomes free finds work.
    #[must_use]
    pub fn room(&self) -> usize {
        let slots = self.slots as usize;
        let window = slots.saturating_sub(self.running) + slots / 4;
        window.saturating_sub(self.released_count)
    }

    /// Whether releases that were not claimed should be published again: somebody has room for them.
    #[must_use]
    pub const fn has_free_slots(&self) -> bool {
        (self.slots as usize) > self.running
    }

    /// How many are queued, in all.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.entries.len() - self.running
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
        self.owners.get(&user).map_or(0, |owner| owner.ranked.len() + owner.limited.len() + owner.later as usize)
    }

    /// Every execution it knows, with its place: for the comparison with the ledger.
    pub fn entries(&self) -> impl Iterator<Item = (ExecutionId, Place)> {
        self.entries.iter().map(|(id, entry)| (*id, entry.place))
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
                let own = owner.limited.range(..key).count() + owner.ranked.len();
                block(None, (own + owner.active as usize) as u64, "user_limit")
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
        let wait =
            if self.has_free_slots() && ahead < slots { 0.0 } else { (ahead + 1.0) / slots * self.fair.mean_cost() };
        Eta { p50: milliseconds(wait), p90: milliseconds(wait * 2.3) }
    }

    fn owner(&mut self, user: UserId) -> &mut Owner {
        self.owners.entry(user).or_default()
    }

    /// Of each owner the first `limit - active` have a rank.
    fn fill(&mut self, user: UserId) {
        let Some(owner) = self.owners.get_mut(&user) else { return };
        let limit = owner
            .limited
            .first()
            .or_else(|| owner.ranked.first())
            .and_then(|key| self.entries.get(&key.id))
            .and_then(|entry| entry.job.limit);
        let room = limit.map_or(usize::MAX, |limit| limit.saturating_sub(owner.active) as usize);
        while owner.ranked.len() > room
            || matches!((owner.ranked.last(), owner.limited.first()), (Some(last), Some(first)) if first < last)
        {
            let Some(last) = owner.ranked.pop_last() else { break };
            self.ranked.remove(&last);
            owner.limited.insert(last);
            if let Some(entry) = self.entries.get_mut(&last.id) {
                entry.place = Place::Limited;
            }
        }
        while owner.ranked.len() < room {
            let Some(first) = owner.limited.pop_first() else { break };
            owner.ranked.insert(first);
            self.ranked.insert(first);
            if let Some(entry) = self.entries.get_mut(&first.id) {
                entry.place = Place::Ranked;
            }
        }
    }
}

fn rank(job: &Job) -> Rank {
    Rank { fresh: !job.started, tag: job.tag, id: job.id }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
fn milliseconds(value: f64) -> u64 {
    value.clamp(0.0, 1e15) as u64
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;

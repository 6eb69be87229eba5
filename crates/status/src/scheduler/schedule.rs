//! The queue that the leader keeps in memory: who may run now, in which order, and why the others wait.

use std::collections::{BTreeSet, HashMap, VecDeque};

use chrono::{DateTime, Utc};
use domain::{EngineId, ExecutionId, UserId};
use indexmap::IndexMap;

use super::{
    fair::{Drafts, Fair},
    ranked::{Rank, Ranked},
};

#[path = "positions.rs"]
mod positions;

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
    active: usize,
    ranked: BTreeSet<Rank>,
    limited: Ranked,
    later: usize,
}

/// The queue.
#[derive(Debug, Clone, Default)]
pub struct Schedule {
    fair: Fair,
    entries: IndexMap<ExecutionId, Entry>,
    owners: HashMap<UserId, Owner>,
    ranked: Ranked,
    later: BTreeSet<(DateTime<Utc>, ExecutionId)>,
    released: VecDeque<(DateTime<Utc>, ExecutionId)>,
    released_count: usize,
    running: usize,
    slots: u32,
    /// Running on executors that take nothing new: they occupy no slot that counts.
    elsewhere: usize,
}

impl Schedule {
    /// The tag of an owner's next execution, after those of `drafts`. It is charged when the execution is queued, and only then.
    pub fn tag(&self, drafts: &mut Drafts, user: UserId, engine: EngineId, share: f64) -> f64 {
        self.fair.tag(drafts, user, engine, share)
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
        self.fair.released(job.tag);
        self.owner(job.user).active += 1;
        self.running += 1;
        self.entries.insert(job.id, Entry { job, place: Place::Running });
    }

    /// Everything that the ledger has is here: virtual time goes on where the queue begins, so that whoever comes now is not
    /// before all who wait.
    pub fn restored(&mut self) {
        if let Some(first) = self.ranked.first() {
            self.fair.released(first.tag);
        }
    }

    /// Takes up to `count` executions for release, in order of rank.
    pub fn release(&mut self, count: usize, now: DateTime<Utc>) -> Vec<ExecutionId> {
        let mut taken = Vec::new();
        self.forget_claimed();
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

    /// Up to `count` releases that nobody claimed in time: to be published again.
    pub fn overdue(&mut self, count: usize, now: DateTime<Utc>) -> Vec<ExecutionId> {
        let mut again = Vec::new();
        while again.len() < count {
            self.forget_claimed();
            let Some((at, id)) = self.released.front().copied() else { break };
            if (now - at).num_milliseconds() < CLAIM_WITHIN_MS {
                break;
            }
            self.released.pop_front();
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.place = Place::Released(now);
            }
            self.released.push_back((now, id));
            again.push(id);
        }
        again
    }

    /// Drops what is at the front of the releases and was claimed or taken out since.
    fn forget_claimed(&mut self) {
        while let Some((at, id)) = self.released.front() {
            if self.entries.get(id).is_some_and(|entry| entry.place == Place::Released(*at)) {
                break;
            }
            self.released.pop_front();
        }
    }

    /// Whether an executor may claim it: it is released.
    #[must_use]
    pub fn is_released(&self, id: ExecutionId) -> bool {
        self.entries.get(&id).is_some_and(|entry| matches!(entry.place, Place::Released(_)))
    }

    /// An executor holds an execution now, by the ledger's word; whether it is known here.
    pub fn claimed(&mut self, id: ExecutionId) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        entry.job.started = true;
        let job = entry.job;
        match entry.place {
            Place::Running => {}
            Place::Released(_) => {
                entry.place = Place::Running;
                less(&mut self.released_count, "released");
                self.running += 1;
            }
            // It was put back into the queue while the claim was being written.
            Place::Ranked | Place::Limited | Place::Later(_) => self.run(job),
        }
        true
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
        let Some(entry) = self.entries.swap_remove(&id) else { return };
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
                less(&mut self.owner(user).later, "later");
            }
            // The place in `released` is found stale when its turn comes.
            Place::Released(_) => {
                less(&mut self.released_count, "released");
                less(&mut self.owner(user).active, "active");
            }
            Place::Running => {
                less(&mut self.running, "running");
                less(&mut self.owner(user).active, "active");
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
            less(&mut owner.later, "later");
            owner.limited.insert(rank(&job));
            self.fill(job.user);
        }
    }

    /// When [`mature`](Self::mature) has something to do.
    #[must_use]
    pub fn next_eligible(&self) -> Option<DateTime<Utc>> {
        self.later.first().map(|(at, _)| *at)
    }

    /// How many slots the executors that take work have together, and how many executions run on others.
    pub const fn set_slots(&mut self, slots: u32, elsewhere: usize) {
        self.slots = slots;
        self.elsewhere = elsewhere;
    }

    /// How many slots are free.
    #[must_use]
    pub const fn free(&self) -> usize {
        (self.slots as usize).saturating_sub(self.running.saturating_sub(self.elsewhere))
    }

    /// How many more may be released now: the free slots, and a few more so that a slot that becomes free finds work.
    #[must_use]
    pub const fn room(&self) -> usize {
        (self.free() + self.slots as usize / 4).saturating_sub(self.released_count)
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
            .or_else(|| owner.ranked.first().copied())
            .and_then(|key| self.entries.get(&key.id))
            .and_then(|entry| entry.job.limit);
        let room = limit.map_or(usize::MAX, |limit| (limit as usize).saturating_sub(owner.active));
        while owner.ranked.len() > room
            || matches!((owner.ranked.last(), owner.limited.first()), (Some(last), Some(first)) if first < *last)
        {
            let Some(last) = owner.ranked.pop_last() else { break };
            self.ranked.remove(&last);
            owner.limited.insert(last);
            if let Some(entry) = self.entries.get_mut(&last.id) {
                entry.place = Place::Limited;
            }
        }
        while owner.ranked.len() < room {
            let Some(first) = owner.limited.first() else { break };
            owner.limited.remove(&first);
            owner.ranked.insert(first);
            self.ranked.insert(first);
            if let Some(entry) = self.entries.get_mut(&first.id) {
                entry.place = Place::Ranked;
            }
        }
    }
}

/// Counts down. A count that was wrong is an error in the log, never a huge number.
fn less(count: &mut usize, what: &'static str) {
    if *count == 0 {
        tracing::error!(what, "the queue counted wrong");
    }
    *count = count.saturating_sub(1);
}

fn rank(job: &Job) -> Rank {
    Rank { fresh: !job.started, tag: job.tag, id: job.id }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;

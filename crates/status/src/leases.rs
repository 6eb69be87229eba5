//! Who holds what: the leader's memory of leases. Every word about a hold names its epoch: what is said of an attempt that is over
//! never touches the next one.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use domain::{ClaimId, ExecutionId, ExecutorId};
use parking_lot::Mutex;
use protocol::claim::{Held, LEASE_MS, Renewal, RenewalResponse};
use storage::fence::Loss;
use tokio::{sync::Notify, time::Instant};

/// A hold that its executor renews without listing is given back after this long.
const UNLISTED_FOR: Duration = Duration::from_secs(2);
/// An executor that was not heard of for so long takes no work.
const ALIVE: Duration = Duration::from_millis(LEASE_MS);

/// All leases of one term.
#[derive(Default)]
pub(crate) struct Leases {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    holds: HashMap<ExecutionId, Hold>,
    executors: HashMap<ExecutorId, Executor>,
    /// How many each executor holds.
    counts: HashMap<ExecutorId, usize>,
    /// Attempts that are being taken back.
    leaving: HashSet<(ExecutionId, i32)>,
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    epoch: i32,
    executor: ExecutorId,
    claim: Option<ClaimId>,
    cancelling: bool,
    listed_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Executor {
    slots: u32,
    draining: bool,
    seen_at: Instant,
    sessions: u32,
}

impl Executor {
    fn new(now: Instant) -> Self {
        Self { slots: 0, draining: false, seen_at: now, sessions: 0 }
    }
}

/// Whether what was said of an attempt is of the present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freed {
    /// It is held no more, if it was.
    Free,
    /// A later attempt holds it.
    Newer,
}

/// What the executors offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// The slots of those that take work; of one that holds more than it has slots, what it holds.
    pub(crate) slots: u32,
    /// What is held by those that take none.
    pub(crate) elsewhere: usize,
}

impl Inner {
    fn insert(&mut self, id: ExecutionId, hold: Hold) {
        self.remove(id);
        *self.counts.entry(hold.executor).or_default() += 1;
        self.holds.insert(id, hold);
    }

    fn remove(&mut self, id: ExecutionId) {
        let Some(hold) = self.holds.remove(&id) else { return };
        if let Some(count) = self.counts.get_mut(&hold.executor) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&hold.executor);
            }
        }
    }

    fn known(&mut self, executor: ExecutorId, now: Instant) -> &mut Executor {
        self.executors.entry(executor).or_insert_with(|| Executor::new(now))
    }
}

impl Leases {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Notes a hold. Said again of the same attempt, it forgets neither its claim nor that it has to stop.
    pub(crate) fn hold(
        &self,
        id: ExecutionId,
        epoch: i32,
        executor: ExecutorId,
        claim: Option<ClaimId>,
        cancelling: bool,
    ) {
        let mut hold = Hold { epoch, executor, claim, cancelling, listed_at: Instant::now() };
        let mut inner = self.inner.lock();
        match inner.holds.get(&id) {
            Some(known) if known.epoch > epoch => return,
            Some(known) if known.epoch == epoch => {
                hold.cancelling |= known.cancelling;
                hold.claim = claim.or(known.claim);
            }
            _ => {}
        }
        inner.insert(id, hold);
    }

    /// Forgets the hold of this attempt, and of earlier ones.
    pub(crate) fn release(&self, id: ExecutionId, epoch: i32) -> Freed {
        let mut inner = self.inner.lock();
        if inner.holds.get(&id).is_some_and(|hold| hold.epoch > epoch) {
            return Freed::Newer;
        }
        inner.remove(id);
        if inner.holds.is_empty() {
            self.changed.notify_waiters();
        }
        Freed::Free
    }

    /// Who holds an execution, by which attempt.
    pub(crate) fn holder(&self, id: ExecutionId) -> Option<(i32, ExecutorId)> {
        self.inner.lock().holds.get(&id).map(|hold| (hold.epoch, hold.executor))
    }

    /// Everything that is held, by attempt.
    pub(crate) fn all(&self) -> Vec<Loss> {
        let inner = self.inner.lock();
        inner.holds.iter().map(|(id, hold)| Loss { execution_id: *id, epoch: hold.epoch }).collect()
    }

    /// Notes that the holder has to stop; whether a holder is known.
    pub(crate) fn cancelling(&self, id: ExecutionId) -> bool {
        let mut inner = self.inner.lock();
        let hold = inner.holds.get_mut(&id);
        hold.map(|hold| hold.cancelling = true).is_some()
    }

    /// Whether this very claim was granted before.
    pub(crate) fn is_granted(&self, id: ExecutionId, executor: ExecutorId, claim: ClaimId) -> bool {
        let inner = self.inner.lock();
        inner.holds.get(&id).is_some_and(|hold| hold.executor == executor && hold.claim.is_none_or(|c| c == claim))
    }

    /// Returns when nothing is held.
    pub(crate) async fn idle(&self) {
        loop {
            let changed = self.changed.notified();
            if self.inner.lock().holds.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Takes a renewal into account that arrived at `arrived`: what to answer, and which holds the executor does not know of. While
    /// it waited for the database, more may have been granted: that it cannot list.
    pub(crate) fn renewed(&self, renewal: &Renewal, arrived: Instant) -> (RenewalResponse, Vec<Loss>) {
        let mut inner = self.inner.lock();
        let executor = inner.known(renewal.executor_id, arrived);
        executor.slots = renewal.slots;
        executor.draining = renewal.draining;
        executor.seen_at = Instant::now();
        let mut answer = RenewalResponse::default();
        for held in &renewal.held {
            match inner.holds.get_mut(&held.execution_id) {
                Some(hold) if hold.executor == renewal.executor_id && hold.epoch == held.epoch => {
                    hold.listed_at = hold.listed_at.max(arrived);
                    if hold.cancelling {
                        answer.cancelling.push(held.execution_id);
                    }
                }
                _ => answer.lost.push(Held { ..*held }),
            }
        }
        let unlisted =
            |hold: &Hold| renewal.goodbye || arrived.saturating_duration_since(hold.listed_at) > UNLISTED_FOR;
        let losses = inner
            .holds
            .iter()
            .filter(|(_, hold)| hold.executor == renewal.executor_id && unlisted(hold))
            .map(|(id, hold)| Loss { execution_id: *id, epoch: hold.epoch })
            .collect();
        if renewal.goodbye {
            inner.executors.remove(&renewal.executor_id);
        }
        (answer, losses)
    }

    /// Begins to take holds back: those of `losses` that nobody takes back already. Each must be told to [`left`](Self::left).
    pub(crate) fn leave(&self, losses: &[Loss]) -> Vec<Loss> {
        let mut inner = self.inner.lock();
        losses.iter().copied().filter(|loss| inner.leaving.insert((loss.execution_id, loss.epoch))).collect()
    }

    /// The taking back is over.
    pub(crate) fn left(&self, losses: &[Loss]) {
        let mut inner = self.inner.lock();
        for loss in losses {
            inner.leaving.remove(&(loss.execution_id, loss.epoch));
        }
    }

    /// What the executors offer now. One that drains or is silent takes no work: what it still holds takes no slot of the others.
    pub(crate) fn capacity(&self) -> Capacity {
        let inner = self.inner.lock();
        let takes = |executor: &Executor| !executor.draining && executor.seen_at.elapsed() < ALIVE;
        let mut capacity = Capacity { slots: 0, elsewhere: 0 };
        for (id, executor) in inner.executors.iter().filter(|(_, executor)| takes(executor)) {
            let held = inner.counts.get(id).copied().unwrap_or_default();
            capacity.slots = capacity.slots.saturating_add(executor.slots.max(u32::try_from(held).unwrap_or(u32::MAX)));
        }
        let other = inner.counts.iter().filter(|(id, _)| !inner.executors.get(id).is_some_and(takes));
        capacity.elsewhere = other.map(|(_, held)| held).sum();
        capacity
    }

    /// Everything an executor holds.
    pub(crate) fn held_by(&self, executor: ExecutorId) -> Vec<Loss> {
        let inner = self.inner.lock();
        let own = inner.holds.iter().filter(|(_, hold)| hold.executor == executor);
        own.map(|(id, hold)| Loss { execution_id: *id, epoch: hold.epoch }).collect()
    }

    /// Those who hold anything.
    pub(crate) fn holders(&self) -> Vec<ExecutorId> {
        self.inner.lock().counts.keys().copied().collect()
    }

    /// Counts a session of an executor.
    pub(crate) fn open_session(&self, executor: ExecutorId) {
        self.inner.lock().known(executor, Instant::now()).sessions += 1;
    }

    /// Whether that was the executor's last session.
    pub(crate) fn close_session(&self, executor: ExecutorId) -> bool {
        let mut inner = self.inner.lock();
        let Some(known) = inner.executors.get_mut(&executor) else { return false };
        known.sessions = known.sessions.saturating_sub(1);
        known.sessions == 0
    }

    /// Whether the executor gave a sign of life since `moment`.
    pub(crate) fn returned(&self, executor: ExecutorId, moment: Instant) -> bool {
        let inner = self.inner.lock();
        inner.executors.get(&executor).is_some_and(|known| known.sessions > 0 || known.seen_at > moment)
    }

    /// Forgets an executor that is lost.
    pub(crate) fn forget(&self, executor: ExecutorId) {
        self.inner.lock().executors.remove(&executor);
    }

    /// Forgets executors that have been silent for a lease period.
    pub(crate) fn forget_silent(&self) {
        self.inner.lock().executors.retain(|_, known| known.sessions > 0 || known.seen_at.elapsed() < ALIVE);
    }
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;

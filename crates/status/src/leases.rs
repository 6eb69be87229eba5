//! Who holds what: the leader's memory of leases. Only the database's clock says that a lease is over.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use domain::{ClaimId, ExecutionId, ExecutorId};
use parking_lot::Mutex;
use protocol::claim::{Held, LEASE_MS, Renewal, RenewalResponse};
use storage::fence::Loss;
use tokio::{sync::Notify, time::Instant};

use crate::{
    leader::{Term, chain},
    service::Status,
    settle,
};

/// A hold that its executor renews without listing is given back after this long.
const UNLISTED_FOR: Duration = Duration::from_secs(2);
/// An executor whose session connection ended has this long to come back.
const RETURN_WITHIN: Duration = Duration::from_millis(400);
/// A look that takes longer says that the database was away.
const SLOW: Duration = Duration::from_secs(1);
/// How often leases are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

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

impl Leases {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Notes a hold.
    pub(crate) fn hold(
        &self,
        id: ExecutionId,
        epoch: i32,
        executor: ExecutorId,
        claim: Option<ClaimId>,
        cancelling: bool,
    ) {
        let hold = Hold { epoch, executor, claim, cancelling, listed_at: Instant::now() };
        self.inner.lock().holds.insert(id, hold);
    }

    /// Forgets a hold.
    pub(crate) fn release(&self, id: ExecutionId) {
        let mut inner = self.inner.lock();
        inner.holds.remove(&id);
        if inner.holds.is_empty() {
            self.changed.notify_waiters();
        }
    }

    /// Notes that the holder has to stop.
    pub(crate) fn cancelling(&self, id: ExecutionId) {
        if let Some(hold) = self.inner.lock().holds.get_mut(&id) {
            hold.cancelling = true;
        }
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

    /// Takes a renewal into account: what to answer, and which holds the executor does not know of.
    pub(crate) fn renewed(&self, renewal: &Renewal) -> (RenewalResponse, Vec<Loss>) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let executor = inner.executors.entry(renewal.executor_id).or_insert(Executor {
            slots: 0,
            draining: false,
            seen_at: now,
            sessions: 0,
        });
        executor.slots = renewal.slots;
        executor.draining = renewal.draining;
        executor.seen_at = now;
        let mut answer = RenewalResponse::default();
        for held in &renewal.held {
            match inner.holds.get_mut(&held.execution_id) {
                Some(hold) if hold.executor == renewal.executor_id && hold.epoch == held.epoch => {
                    hold.listed_at = now;
                    if hold.cancelling {
                        answer.cancelling.push(held.execution_id);
                    }
                }
                _ => answer.lost.push(Held { ..*held }),
            }
        }
        let unlisted = |hold: &Hold| renewal.goodbye || now - hold.listed_at > UNLISTED_FOR;
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

    /// The slots of all living executors that take work.
    pub(crate) fn slots(&self) -> u32 {
        let alive = Duration::from_millis(LEASE_MS);
        let inner = self.inner.lock();
        let taking = inner.executors.values().filter(|e| !e.draining && e.seen_at.elapsed() < alive);
        taking.map(|executor| executor.slots).fold(0, u32::saturating_add)
    }

    /// Everything an executor holds.
    fn held_by(&self, executor: ExecutorId) -> Vec<Loss> {
        let inner = self.inner.lock();
        let own = inner.holds.iter().filter(|(_, hold)| hold.executor == executor);
        own.map(|(id, hold)| Loss { execution_id: *id, epoch: hold.epoch }).collect()
    }

    fn holders(&self) -> Vec<ExecutorId> {
        let holders: HashSet<ExecutorId> = self.inner.lock().holds.values().map(|hold| hold.executor).collect();
        holders.into_iter().collect()
    }

    fn open_session(&self, executor: ExecutorId) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let known = Executor { slots: 0, draining: false, seen_at: now, sessions: 0 };
        inner.executors.entry(executor).or_insert(known).sessions += 1;
    }

    /// Whether that was the executor's last session.
    fn close_session(&self, executor: ExecutorId) -> bool {
        let mut inner = self.inner.lock();
        let Some(known) = inner.executors.get_mut(&executor) else { return false };
        known.sessions = known.sessions.saturating_sub(1);
        known.sessions == 0
    }

    /// Whether the executor gave a sign of life since `moment`.
    fn returned(&self, executor: ExecutorId, moment: Instant) -> bool {
        let inner = self.inner.lock();
        inner.executors.get(&executor).is_some_and(|known| known.sessions > 0 || known.seen_at > moment)
    }

    fn forget(&self, executor: ExecutorId) {
        self.inner.lock().executors.remove(&executor);
    }

    fn forget_silent(&self) {
        let alive = Duration::from_millis(LEASE_MS);
        self.inner.lock().executors.retain(|_, known| known.sessions > 0 || known.seen_at.elapsed() < alive);
    }
}

/// A session connection of an executor. Its end is a hint that the process died: its kernel closes its sockets.
pub(crate) struct Session {
    status: Arc<Status>,
    term: Arc<Term>,
    executor: ExecutorId,
}

impl Session {
    pub(crate) fn open(status: Arc<Status>, term: Arc<Term>, executor: ExecutorId) -> Self {
        term.leases.open_session(executor);
        Self { status, term, executor }
    }

    /// Ends with the term: then the executor connects to the next leader.
    pub(crate) async fn over(&self) {
        self.term.over.cancelled().await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let last = self.term.leases.close_session(self.executor);
        if last && !self.term.over.is_cancelled() && !self.status.shutdown.drain.is_cancelled() {
            let (status, term, executor) = (Arc::clone(&self.status), Arc::clone(&self.term), self.executor);
            self.status.shutdown.spawn(async move { missed(status, term, executor).await });
        }
    }
}

async fn missed(status: Arc<Status>, term: Arc<Term>, executor: ExecutorId) {
    let moment = Instant::now();
    tokio::select! {
        () = term.over.cancelled() => return,
        () = tokio::time::sleep(RETURN_WITHIN) => {}
    }
    if term.leases.returned(executor, moment) {
        return;
    }
    let losses = term.leases.held_by(executor);
    tracing::warn!(executor.id = %executor, held = losses.len(), "an executor's session ended and it did not come back");
    term.leases.forget(executor);
    settle::slots_changed(&term);
    settle::take_back(&status, &term, losses, settle::Cause::Lost).await;
}

/// Looks for leases that are over, until the term is.
pub(crate) async fn watch(status: Arc<Status>, term: Arc<Term>) {
    let grace = Duration::from_millis(LEASE_MS);
    // Nothing is lost within one lease period after the leader took over or the database came back.
    let mut not_before = Instant::now() + grace;
    loop {
        tokio::select! {
            () = term.over.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        term.leases.forget_silent();
        settle::slots_changed(&term);
        let holders = term.leases.holders();
        if holders.is_empty() {
            continue;
        }
        let asked = Instant::now();
        let lapsed = match status.connection().await {
            Ok(mut conn) => storage::executors::lapsed(&mut conn, &holders).await,
            Err(error) => Err(error),
        };
        match lapsed {
            // A slow answer is an outage too: nobody could renew while the database stood still.
            Ok(_) if asked.elapsed() > SLOW => {
                tracing::warn!(elapsed = ?asked.elapsed(), "the database was away: every lease gets a new period");
                not_before = Instant::now() + grace;
            }
            Ok(lapsed) if Instant::now() >= not_before => {
                for executor in lapsed {
                    let losses = term.leases.held_by(executor);
                    tracing::warn!(executor.id = %executor, held = losses.len(), "an executor's lease is over");
                    settle::take_back(&status, &term, losses, settle::Cause::Lost).await;
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = %chain(&error), "leases cannot be read");
                not_before = Instant::now() + grace;
            }
        }
    }
}

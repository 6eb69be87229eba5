//! How the leader notices that an executor is lost: the end of its session, or of its lease. Only the database's clock says that a
//! lease is over.

use std::{sync::Arc, time::Duration};

use domain::ExecutorId;
use protocol::claim::LEASE_MS;
use tokio::time::Instant;

use crate::{leader::Term, service::Status, settle};

/// An executor whose session connection ended has this long to come back.
const RETURN_WITHIN: Duration = Duration::from_millis(400);
/// A look that takes longer says that the database was away.
const SLOW: Duration = Duration::from_secs(1);
/// How often leases are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

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
    term.released.notify_one();
    settle::take_back(&status, &term, losses, settle::Cause::Lost).await;
}

/// Looks for leases that are over, until the term is.
pub(crate) async fn watch(status: Arc<Status>, term: Arc<Term>) {
    let grace = Duration::from_millis(LEASE_MS);
    // Nothing is lost within one lease period after the leader took over or the database came back.
    let mut not_before = Instant::now() + grace;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        term.leases.forget_silent();
        term.released.notify_one();
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
                    // Nobody waits for it here: the others' leases are looked at meanwhile.
                    drop(settle::take_back(&status, &term, losses, settle::Cause::Lost));
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = %service::chain(&error), "leases cannot be read");
                not_before = Instant::now() + grace;
            }
        }
    }
}

//! What follows a committed change: the queue, the leases, the waiting and the viewers learn of it. Never before the commit.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use domain::{EventRecord, ExecutionId, State};
use storage::fence::Loss;
use tracing::Instrument as _;

use crate::{
    leader::{Term, chain},
    service::Status,
};

/// How long a fence waits before it is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// An execution left its holder, or its place in the queue.
pub(crate) struct Moved<'a> {
    pub(crate) id: ExecutionId,
    pub(crate) state: State,
    pub(crate) eligible_at: Option<DateTime<Utc>>,
    pub(crate) slot_ms: Option<i64>,
    pub(crate) events: &'a [EventRecord],
}

/// Takes one committed change into account.
pub(crate) fn moved(status: &Status, term: &Term, moved: &Moved<'_>) {
    term.leases.release(moved.id);
    let job = term.schedule.lock().ended(moved.id, moved.slot_ms);
    match moved.state {
        State::Queued => {
            // One that waited was not in the queue: the minute check would find it, the timers find it sooner.
            if let Some(job) = job {
                term.schedule.lock().queue(job, moved.eligible_at);
                term.sooner.notify_one();
            }
        }
        State::Waiting => {
            if let Some(at) = moved.eligible_at {
                term.wakes(moved.id, at);
            }
        }
        state if state.is_terminal() => {
            status.metrics.finished.inc();
            term.ended(moved.id);
        }
        _ => {}
    }
    status.live.show(moved.id, moved.events);
    term.released.notify_one();
}

/// Why holds are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The executor is lost.
    Lost,
    /// The executor left in order: no loss.
    GivenBack,
}

/// Fences holders, again and again until the database takes it.
pub(crate) async fn take_back(status: &Arc<Status>, term: &Arc<Term>, losses: Vec<Loss>, cause: Cause) {
    if losses.is_empty() {
        return;
    }
    let span = tracing::info_span!("take back", executions = losses.len(), ?cause);
    loop {
        match try_take_back(status, term, &losses, cause).instrument(span.clone()).await {
            Ok(()) => return,
            Err(storage::StorageError::NotLeader(_)) => return,
            Err(error) => tracing::warn!(error = %chain(&error), "a fence waits"),
        }
        tokio::select! {
            () = term.over.cancelled() => return,
            () = tokio::time::sleep(RETRY_AFTER) => {}
        }
    }
}

async fn try_take_back(
    status: &Status,
    term: &Term,
    losses: &[Loss],
    cause: Cause,
) -> Result<(), storage::StorageError> {
    let mut conn = status.connection().await?;
    let taken = match cause {
        Cause::Lost => storage::fence::take_back(&mut conn, term.number, losses, status.now()).await?,
        Cause::GivenBack => storage::fence::give_back(&mut conn, term.number, losses, status.now()).await?,
    };
    drop(conn);
    for back in &taken {
        status.metrics.fenced.inc();
        let change = Moved {
            id: back.execution_id,
            state: back.state,
            eligible_at: back.eligible_at,
            slot_ms: None,
            events: &back.appended,
        };
        moved(status, term, &change);
    }
    for loss in losses {
        // What the ledger did not hold any more was a hold of the memory only.
        if !taken.iter().any(|back| back.execution_id == loss.execution_id) {
            term.leases.release(loss.execution_id);
        }
    }
    Ok(())
}

/// The number of slots may be another: more may be released.
pub(crate) fn slots_changed(term: &Term) {
    let slots = term.leases.slots();
    term.schedule.lock().set_slots(slots);
    term.released.notify_one();
}

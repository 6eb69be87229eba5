//! What follows a committed change: the queue, the leases, the waiting and the viewers learn of it. Never before the commit.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use domain::{EventRecord, ExecutionId, State};
use storage::{StorageError, fence::Loss};
use tracing::Instrument as _;

use crate::{leader::Term, leases::Freed, service::Status};

/// How long a fence waits before it is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How long one that cannot be written waits before anybody tries it again.
const SPARE_FOR: Duration = Duration::from_secs(10);
/// How many executions are fenced in one transaction: it reads the event log of each.
const CHUNK: usize = 50;

/// An execution left its holder, or its place in the queue.
pub(crate) struct Moved<'a> {
    pub(crate) id: ExecutionId,
    /// The attempt that is over.
    pub(crate) epoch: i32,
    pub(crate) state: State,
    pub(crate) eligible_at: Option<DateTime<Utc>>,
    pub(crate) slot_ms: Option<i64>,
    pub(crate) events: &'a [EventRecord],
}

/// Takes one committed change into account.
pub(crate) fn moved(status: &Status, term: &Term, moved: &Moved<'_>) {
    status.live.show(moved.id, moved.events);
    // The next attempt may have been granted before this one's end was noted here.
    if term.leases.release(moved.id, moved.epoch) == Freed::Newer {
        return;
    }
    let job = term.schedule.lock().ended(moved.id, moved.slot_ms);
    match moved.state {
        State::Queued => match job {
            Some(job) => {
                term.schedule.lock().queue(job, moved.eligible_at);
                term.sooner.notify_one();
            }
            None => term.doubts.doubt(moved.id),
        },
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

/// Fences holders, in a task of its own: it goes on when the caller does not. Each attempt is taken back by one task at a time.
pub(crate) fn take_back(
    status: &Arc<Status>,
    term: &Arc<Term>,
    losses: Vec<Loss>,
    cause: Cause,
) -> impl Future<Output = ()> + use<> {
    let losses = term.leases.leave(&losses);
    let task = (!losses.is_empty()).then(|| {
        let (status, term, spawner) = (Arc::clone(status), Arc::clone(term), status.shutdown.clone());
        let span = tracing::info_span!("take back", executions = losses.len(), ?cause);
        let taken = async move {
            tokio::select! {
                () = term.over.cancelled() => {}
                () = take_back_all(&status, &term, &losses, cause) => {}
            }
            term.leases.left(&losses);
        };
        spawner.spawn(taken.instrument(span))
    });
    async move {
        if let Some(task) = task {
            // Its panic is logged by the runtime.
            drop(task.await);
        }
    }
}

/// Chunk by chunk; one that cannot be written is halved until it is alone, and then spared for a while.
async fn take_back_all(status: &Status, term: &Term, losses: &[Loss], cause: Cause) {
    let mut open: Vec<&[Loss]> = losses.chunks(CHUNK).rev().collect();
    let mut spared = false;
    while let Some(chunk) = open.pop() {
        match try_take_back(status, term, chunk, cause).await {
            Ok(()) => {}
            Err(StorageError::NotLeader(_)) => return,
            Err(error) if error.is_transient() => {
                tracing::warn!(error = %service::chain(&error), "a fence waits");
                open.push(chunk);
                tokio::time::sleep(RETRY_AFTER).await;
            }
            Err(_) if chunk.len() > 1 => {
                let (first, second) = chunk.split_at(chunk.len() / 2);
                open.extend([second, first]);
            }
            Err(error) => {
                tracing::error!(error = %service::chain(&error), lost = ?chunk, "a fence cannot be written");
                spared = true;
            }
        }
    }
    if spared {
        tokio::time::sleep(SPARE_FOR).await;
    }
}

async fn try_take_back(status: &Status, term: &Term, losses: &[Loss], cause: Cause) -> Result<(), StorageError> {
    let mut conn = status.connection().await?;
    let taken = match cause {
        Cause::Lost => storage::fence::take_back(&mut conn, term.number, losses, status.now()).await?,
        Cause::GivenBack => storage::fence::give_back(&mut conn, term.number, losses, status.now()).await?,
    };
    drop(conn);
    for loss in losses {
        let Some(back) = taken.iter().find(|back| back.execution_id == loss.execution_id) else {
            // Its end was noted before, or its answer was lost: the ledger knows.
            term.leases.release(loss.execution_id, loss.epoch);
            term.doubts.doubt(loss.execution_id);
            continue;
        };
        status.metrics.fenced.inc();
        let change = Moved {
            id: back.execution_id,
            epoch: loss.epoch,
            state: back.state,
            eligible_at: back.eligible_at,
            slot_ms: None,
            events: &back.appended,
        };
        moved(status, term, &change);
    }
    Ok(())
}

//! Instants that pass: deadlines, wake-ups, and waits before a retry. Sleeps until the next one that is known.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use domain::ExecutionId;
use storage::{StorageError, expiry::Moved};

use crate::{leader::Term, reconcile::reconcile, service::Status, settle};

/// How many executions end or wake in one transaction.
const BATCH: i64 = 200;
/// The longest sleep: clocks may be set.
const AT_MOST: Duration = Duration::from_secs(30);
/// How long a failed round waits.
const RETRY_AFTER: Duration = Duration::from_millis(300);

/// Runs until it is dropped with its term.
pub(crate) async fn run(status: Arc<Status>, term: Arc<Term>) {
    loop {
        let wait = match round(&status, &term).await {
            Ok(next) => next.map_or(AT_MOST, |at| (at - status.now()).to_std().unwrap_or_default().min(AT_MOST)),
            Err(StorageError::NotLeader(_)) => return,
            Err(error) => {
                tracing::warn!(error = %service::chain(&error), "timers wait");
                RETRY_AFTER
            }
        };
        tokio::select! {
            () = term.sooner.notified() => {}
            () = tokio::time::sleep(wait + Duration::from_millis(1)) => {}
        }
    }
}

/// Does what is due and returns the next instant at which something will be.
async fn round(status: &Arc<Status>, term: &Arc<Term>) -> Result<Option<DateTime<Utc>>, StorageError> {
    let now = status.now();
    let matured = {
        let mut schedule = term.schedule.lock();
        let due = schedule.next_eligible().is_some_and(|at| at <= now);
        schedule.mature(now);
        due
    };
    if matured {
        term.released.notify_one();
    }
    wake(status, term, now).await?;
    expire(status, term, now).await?;
    let eligible = term.schedule.lock().next_eligible();
    let wakes = term.wakes.lock().first().map(|(at, _)| *at);
    let deadline = term.deadline();
    Ok([eligible, wakes, deadline].into_iter().flatten().min())
}

async fn wake(status: &Arc<Status>, term: &Arc<Term>, now: DateTime<Utc>) -> Result<(), StorageError> {
    loop {
        let due: Vec<(DateTime<Utc>, ExecutionId)> = {
            let wakes = term.wakes.lock();
            wakes.iter().take_while(|(at, _)| *at <= now).take(200).copied().collect()
        };
        if due.is_empty() {
            return Ok(());
        }
        let ids: Vec<ExecutionId> = due.iter().map(|(_, id)| *id).collect();
        let mut conn = status.connection().await?;
        let woken = storage::expiry::wake(&mut conn, term.number, &ids, now).await?;
        drop(conn);
        {
            let mut wakes = term.wakes.lock();
            for entry in &due {
                wakes.remove(entry);
            }
        }
        // What did not wake now may have woken before, by a commit whose answer was lost.
        if let Err(error) = reconcile(status, term, &ids).await {
            ids.into_iter().for_each(|id| term.doubts.doubt(id));
            return Err(error);
        }
        tracing::info_span!("wake", executions = woken.len()).in_scope(|| {
            woken.iter().for_each(|moved| status.live.show(moved.execution_id, &moved.appended));
        });
        term.released.notify_one();
    }
}

async fn expire(status: &Arc<Status>, term: &Arc<Term>, now: DateTime<Utc>) -> Result<(), StorageError> {
    let Some(passed) = term.passed(now) else { return Ok(()) };
    let next = expire_all(status, term, now).await;
    term.due(*next.as_ref().unwrap_or(&Some(passed)));
    next.map(drop)
}

/// Ends all that is past its deadline, and returns when there will be more.
async fn expire_all(
    status: &Arc<Status>,
    term: &Arc<Term>,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, StorageError> {
    loop {
        let mut conn = status.connection().await?;
        let ended = storage::expiry::expire_due(&mut conn, term.number, BATCH, now).await?;
        if ended.is_empty() {
            return storage::expiry::next_deadline(&mut conn, now).await;
        }
        drop(conn);
        tracing::info_span!("expire", executions = ended.len())
            .in_scope(|| ended.iter().for_each(|moved| end(status, term, moved)));
    }
}

fn end(status: &Status, term: &Term, moved: &Moved) {
    // The executor learns with its next report or renewal that it was fenced.
    let change = settle::Moved {
        id: moved.execution_id,
        epoch: moved.epoch,
        state: moved.state,
        eligible_at: None,
        slot_ms: None,
        events: &moved.appended,
    };
    settle::moved(status, term, &change);
}

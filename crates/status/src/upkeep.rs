//! Once a minute: the queue is compared with the ledger and repaired; partitions are made; what is old is forgotten.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use domain::{ExecutionId, ExecutorId, State};
use protocol::operate::Violation;
use storage::{PooledConnection, StorageError, backlog::Unfinished};

use crate::{leader::Term, reconcile::reconcile, scheduler::Place, service::Status};

const EVERY: Duration = Duration::from_secs(60);

/// How many executions are compared at once: the queue is locked meanwhile.
const SLICE: usize = 1_000;

/// Runs until it is dropped with its term.
pub(crate) async fn run(status: Arc<Status>, term: Arc<Term>) {
    loop {
        tokio::time::sleep(EVERY).await;
        term.forget_gone();
        match round(&status, &term).await {
            Ok(()) => {}
            Err(StorageError::NotLeader(_)) => return,
            Err(error) => tracing::warn!(error = %service::chain(&error), "upkeep waits"),
        }
    }
}

async fn round(status: &Arc<Status>, term: &Arc<Term>) -> Result<(), StorageError> {
    let mut conn = status.connection().await?;
    partitions(&mut conn, status.now()).await;
    storage::upkeep::forget_idempotency_keys(&mut conn, term.number).await?;
    storage::executors::forget_old(&mut conn, term.number).await?;
    drop(conn);
    for violation in compare(status, term, true).await? {
        status.metrics.repaired.inc();
        tracing::error!(rule = violation.rule, execution.id = ?violation.execution_id, "queue and ledger differed");
    }
    Ok(())
}

/// Makes partitions ahead of time. Without one its rows go to the default partition: nothing else has to wait for it.
pub(crate) async fn partitions(conn: &mut PooledConnection, now: DateTime<Utc>) {
    if let Err(error) = storage::upkeep::ensure_partitions(conn, now, 3).await {
        tracing::error!(error = %service::chain(&error), "a partition of the event log cannot be made");
    }
}

/// Differences between the memory and the ledger. Two looks: what moves between them is no difference.
pub(crate) async fn compare(
    status: &Arc<Status>,
    term: &Arc<Term>,
    repair: bool,
) -> Result<Vec<Violation>, StorageError> {
    let mut suspects = differences(term, &read(status).await?);
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let again = differences(term, &read(status).await?);
    suspects.retain(|id, rule| again.get(id) == Some(rule));
    if repair {
        let ids: Vec<ExecutionId> = suspects.keys().copied().collect();
        for ids in ids.chunks(SLICE) {
            reconcile(status, term, ids).await?;
        }
    }
    Ok(suspects.into_iter().map(|(id, rule)| Violation { rule: rule.to_owned(), execution_id: Some(id) }).collect())
}

async fn read(status: &Status) -> Result<Vec<Unfinished>, StorageError> {
    let mut conn = status.connection().await?;
    storage::backlog::unfinished(&mut conn).await
}

fn differences(term: &Term, ledger: &[Unfinished]) -> HashMap<ExecutionId, &'static str> {
    let wakes: HashSet<ExecutionId> = term.wakes.lock().iter().map(|(_, id)| *id).collect();
    let mut found = HashMap::new();
    for slice in ledger.chunks(SLICE) {
        let places: Vec<Option<Place>> = {
            let schedule = term.schedule.lock();
            slice.iter().map(|row| schedule.place(row.execution_id)).collect()
        };
        for (row, place) in slice.iter().zip(places) {
            // A deadline that memory has lost costs nothing to note again.
            term.due(row.due_at);
            let hold = term.leases.holder(row.execution_id);
            if let Some(rule) = difference(row, place, hold, &wakes) {
                found.insert(row.execution_id, rule);
            }
        }
    }
    let unfinished: HashSet<ExecutionId> = ledger.iter().map(|row| row.execution_id).collect();
    let mut end = usize::MAX;
    while end > 0 {
        let (ids, start) = term.schedule.lock().slice(end, SLICE);
        end = start;
        found.extend(ids.into_iter().filter(|id| !unfinished.contains(id)).map(|id| (id, "in_the_queue_but_finished")));
    }
    let held = term.leases.all().into_iter().map(|hold| hold.execution_id);
    found.extend(held.filter(|id| !unfinished.contains(id)).map(|id| (id, "held_but_finished")));
    found
}

fn difference(
    row: &Unfinished,
    place: Option<Place>,
    hold: Option<(i32, ExecutorId)>,
    wakes: &HashSet<ExecutionId>,
) -> Option<&'static str> {
    match (row.state, place) {
        (State::Queued, None) => Some("queued_but_not_in_the_queue"),
        (State::Queued, Some(Place::Running)) => Some("queued_but_running_in_the_queue"),
        (State::Processing | State::Cancelling, Some(Place::Running)) => {
            // Without its lease nobody would notice that its executor is lost.
            let known = hold.is_some_and(|(epoch, executor)| epoch == row.epoch && Some(executor) == row.executor_id);
            (!known).then_some("held_without_a_lease")
        }
        (State::Processing | State::Cancelling, _) => Some("held_but_not_running_in_the_queue"),
        (State::Waiting, _) if !wakes.contains(&row.execution_id) => Some("waiting_without_a_timer"),
        _ if hold.is_some() => Some("not_held_but_leased"),
        _ => None,
    }
}

#[cfg(test)]
#[path = "upkeep_tests.rs"]
mod tests;

//! Once a minute: the queue is compared with the ledger and repaired; partitions are made; what is old is forgotten.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use domain::{ExecutionId, State};
use protocol::operate::Violation;
use storage::{StorageError, backlog::Unfinished};

use crate::{
    leader::{Term, chain, restore},
    scheduler::Place,
    service::Status,
};

const EVERY: Duration = Duration::from_secs(60);

/// Runs until the term is over.
pub(crate) async fn run(status: Arc<Status>, term: Arc<Term>) {
    loop {
        tokio::select! {
            () = term.over.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        term.forget_gone();
        match round(&status, &term).await {
            Ok(()) => {}
            Err(StorageError::NotLeader(_)) => return,
            Err(error) => tracing::warn!(error = %chain(&error), "upkeep waits"),
        }
    }
}

async fn round(status: &Arc<Status>, term: &Arc<Term>) -> Result<(), StorageError> {
    let mut conn = status.connection().await?;
    storage::upkeep::ensure_partitions(&mut conn, status.now(), 3).await?;
    storage::upkeep::forget_idempotency_keys(&mut conn, term.number).await?;
    storage::executors::forget_old(&mut conn, term.number).await?;
    drop(conn);
    for violation in compare(status, term, true).await? {
        status.metrics.repaired.inc();
        tracing::error!(rule = violation.rule, execution.id = ?violation.execution_id, "queue and ledger differed");
    }
    Ok(())
}

/// Differences between the queue and the ledger. Two looks: what moves between them is no difference.
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
    let ledger = read(status).await?;
    let again = differences(term, &ledger);
    suspects.retain(|id, rule| again.get(id) == Some(rule));
    if repair {
        for row in ledger.iter().filter(|row| suspects.contains_key(&row.execution_id)) {
            term.schedule.lock().remove(row.execution_id);
            restore(term, row);
        }
        let known: HashSet<ExecutionId> = ledger.iter().map(|row| row.execution_id).collect();
        for id in suspects.keys().filter(|id| !known.contains(id)) {
            term.schedule.lock().remove(*id);
            term.leases.release(*id);
        }
        term.released.notify_one();
    }
    Ok(suspects.into_iter().map(|(id, rule)| Violation { rule: rule.to_owned(), execution_id: Some(id) }).collect())
}

async fn read(status: &Status) -> Result<Vec<Unfinished>, StorageError> {
    let mut conn = status.connection().await?;
    storage::backlog::unfinished(&mut conn).await
}

fn differences(term: &Term, ledger: &[Unfinished]) -> HashMap<ExecutionId, &'static str> {
    let schedule = term.schedule.lock();
    let places: HashMap<ExecutionId, Place> = schedule.entries().collect();
    let wakes: HashSet<ExecutionId> = term.wakes.lock().iter().map(|(_, id)| *id).collect();
    let mut found = HashMap::new();
    for row in ledger {
        let place = places.get(&row.execution_id);
        let rule = match (row.state, place) {
            (State::Queued, None) => Some("queued_but_not_in_the_queue"),
            (State::Queued, Some(Place::Running)) => Some("queued_but_running_in_the_queue"),
            (State::Processing | State::Cancelling, Some(Place::Running)) => None,
            (State::Processing | State::Cancelling, _) => Some("held_but_not_running_in_the_queue"),
            (State::Waiting, _) if !wakes.contains(&row.execution_id) => Some("waiting_without_a_timer"),
            _ => None,
        };
        if let Some(rule) = rule {
            found.insert(row.execution_id, rule);
        }
    }
    let unfinished: HashSet<ExecutionId> = ledger.iter().map(|row| row.execution_id).collect();
    for id in places.keys().filter(|id| !unfinished.contains(id)) {
        found.insert(*id, "in_the_queue_but_finished");
    }
    found
}

//! Deadlines that passed and executions that wake.

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Nullable, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{Change, EventBody, EventRecord, ExecutionId, ExecutorId, Failure, FailureCode, State};
use uuid::Uuid;

use crate::{
    error::StorageError,
    fence::write_failures,
    kept::keep_what_was_shown,
    leader::write_as_leader,
    ledger::{Entry, lock, save},
    sql::sql,
};

/// What a passed instant did to an execution.
#[derive(Debug, Clone)]
pub struct Moved {
    /// Which execution.
    pub execution_id: ExecutionId,
    /// Where it is now.
    pub state: State,
    /// The attempt that is over.
    pub epoch: i32,
    /// Who held it, if it was held.
    pub fenced: Option<ExecutorId>,
    /// The events of it.
    pub appended: Vec<EventRecord>,
}

#[derive(QueryableByName)]
struct IdRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

#[derive(QueryableByName)]
struct DueRow {
    #[diesel(sql_type = Nullable<Timestamptz>)]
    at: Option<DateTime<Utc>>,
}

/// Ends what is past its deadline: at most `limit`.
///
/// # Errors
/// When the database cannot be reached or another process leads.
pub async fn expire_due(
    conn: &mut AsyncPgConnection,
    term: i64,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<Moved>, StorageError> {
    write_as_leader!(conn, term, expire_once(conn, limit, now))
}

async fn expire_once(conn: &AsyncPgConnection, limit: i64, now: DateTime<Utc>) -> Result<Vec<Moved>, StorageError> {
    let due: Vec<IdRow> = sql("SELECT id FROM executions WHERE finished_at IS NULL AND (queue_deadline_at IS NOT NULL OR deadline_at IS NOT NULL) \
         AND LEAST(queue_deadline_at, deadline_at) <= ? AND (deadline_at <= ? OR started_at IS NULL) LIMIT ?")
    .bind::<Timestamptz, _>(now)
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(limit)
    .load(conn)
    .await?;
    let mut entries = lock(conn, due.into_iter().map(|row| row.id).collect()).await?;
    // Between the look and the lock it may have started, or ended.
    entries.retain(|entry| {
        let past = entry.deadline_at.is_some_and(|at| at <= now);
        !entry.state.is_terminal() && (entry.started_at.is_none() || past)
    });
    keep_what_was_shown(conn, &mut entries, now).await?;
    let mut failed = Vec::new();
    let mut moved = Vec::new();
    for entry in &mut entries {
        let (epoch, fenced) = (entry.epoch, entry.executor_id.map(ExecutorId::from_uuid));
        if let Some(failure) = expire(entry, now)? {
            failed.push((entry.id, failure));
        }
        moved.push(Moved { execution_id: entry.id, state: entry.state, epoch, fenced, appended: entry.events.clone() });
    }
    write_failures(conn, &failed).await?;
    save(conn, &entries).await?;
    Ok(moved)
}

fn expire(entry: &mut Entry, now: DateTime<Utc>) -> Result<Option<Failure>, StorageError> {
    let change = if entry.started_at.is_none() { Change::Expire } else { Change::PassDeadline };
    let state = entry.change(change, now).map_err(|error| StorageError::Corrupt(format!("{}: {error}", entry.id)))?;
    entry.take_epoch();
    match state {
        State::Expired => entry.write(EventBody::Expired, now).map(|()| None),
        State::Cancelled => {
            entry.close("fence", None);
            entry.write(EventBody::Cancelled, now).map(|()| None)
        }
        _ => {
            let failure = Failure::new(FailureCode::DeadlineExceeded, "its deadline passed while it was running");
            entry.write(EventBody::Failed { error: (&failure).into() }, now)?;
            Ok(Some(failure))
        }
    }
}

/// The next instant after `now` at which [`expire_due`] may find something; `None` when no unfinished execution has a deadline. Two
/// looks at the index: what lies ahead, and what has outlived its first deadline by having started.
///
/// # Errors
/// When the database cannot be reached.
pub async fn next_deadline(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, StorageError> {
    let row: DueRow = sql(
        "SELECT LEAST((SELECT LEAST(queue_deadline_at, deadline_at) FROM executions \
         WHERE finished_at IS NULL AND (queue_deadline_at IS NOT NULL OR deadline_at IS NOT NULL) \
         AND LEAST(queue_deadline_at, deadline_at) > ? ORDER BY LEAST(queue_deadline_at, deadline_at) LIMIT 1), \
         (SELECT min(CASE WHEN started_at IS NULL THEN LEAST(queue_deadline_at, deadline_at) ELSE deadline_at END) FROM executions \
         WHERE finished_at IS NULL AND (queue_deadline_at IS NOT NULL OR deadline_at IS NOT NULL) \
         AND LEAST(queue_deadline_at, deadline_at) <= ?)) AS at",
    )
    .bind::<Timestamptz, _>(now)
    .bind::<Timestamptz, _>(now)
    .get_result(conn)
    .await?;
    Ok(row.at)
}

/// Puts waiting executions whose time has come back into the queue.
///
/// # Errors
/// When the database cannot be reached or another process leads.
pub async fn wake(
    conn: &mut AsyncPgConnection,
    term: i64,
    executions: &[ExecutionId],
    now: DateTime<Utc>,
) -> Result<Vec<Moved>, StorageError> {
    write_as_leader!(conn, term, wake_once(conn, executions, now))
}

async fn wake_once(
    conn: &AsyncPgConnection,
    executions: &[ExecutionId],
    now: DateTime<Utc>,
) -> Result<Vec<Moved>, StorageError> {
    let mut entries = lock(conn, executions.iter().map(|id| id.uuid()).collect()).await?;
    entries.retain(|entry| entry.state == State::Waiting && entry.eligible_at.is_some_and(|at| at <= now));
    let mut moved = Vec::new();
    for entry in &mut entries {
        let state =
            entry.change(Change::Wake, now).map_err(|error| StorageError::Corrupt(format!("{}: {error}", entry.id)))?;
        let epoch = entry.epoch;
        entry.take_epoch();
        entry.eligible_at = None;
        entry.write(EventBody::Queued { reason: Some("woken".to_owned()) }, now)?;
        moved.push(Moved { execution_id: entry.id, state, epoch, fenced: None, appended: entry.events.clone() });
    }
    save(conn, &entries).await?;
    Ok(moved)
}

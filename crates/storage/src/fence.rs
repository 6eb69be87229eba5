//! Taking executions back from executors that are lost or leave.

use chrono::{DateTime, Duration, Utc};
use diesel::sql_types::{Array, Jsonb, Uuid as SqlUuid};
use diesel_async::AsyncPgConnection;
use domain::{Change, EventBody, EventRecord, ExecutionId, Failure, FailureCode, State};

use crate::{
    error::StorageError,
    kept::keep_what_was_shown,
    leader::write_as_leader,
    ledger::{Entry, lock, save},
    sql::sql,
};

/// After so many losses without a finished unit in between an execution is quarantined.
const LOSSES: i16 = 8;

/// One hold that is over.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// Which execution.
    pub execution_id: ExecutionId,
    /// The attempt that is lost.
    pub epoch: i32,
}

/// What became of an execution whose holder is lost.
#[derive(Debug, Clone)]
pub struct TakenBack {
    /// Which execution.
    pub execution_id: ExecutionId,
    /// Queued again, or terminal.
    pub state: State,
    /// When it may be released, if not at once.
    pub eligible_at: Option<DateTime<Utc>>,
    /// The events of it.
    pub appended: Vec<EventRecord>,
}

/// Fences lost holders. A hold that is over already, by a finish or another fence, is left alone.
///
/// # Errors
/// When the database cannot be reached or another process leads.
pub async fn take_back(
    conn: &mut AsyncPgConnection,
    term: i64,
    losses: &[Loss],
    now: DateTime<Utc>,
) -> Result<Vec<TakenBack>, StorageError> {
    write_as_leader!(conn, term, fence_once(conn, losses, lose, now))
}

/// Takes back what an executor that ends in order still held: as its own giving back would, and no loss.
///
/// # Errors
/// When the database cannot be reached or another process leads.
pub async fn give_back(
    conn: &mut AsyncPgConnection,
    term: i64,
    holds: &[Loss],
    now: DateTime<Utc>,
) -> Result<Vec<TakenBack>, StorageError> {
    write_as_leader!(conn, term, fence_once(conn, holds, let_go, now))
}

async fn fence_once(
    conn: &AsyncPgConnection,
    losses: &[Loss],
    end: fn(&mut Entry, DateTime<Utc>) -> Result<Option<Failure>, StorageError>,
    now: DateTime<Utc>,
) -> Result<Vec<TakenBack>, StorageError> {
    let mut entries = lock(conn, losses.iter().map(|loss| loss.execution_id.uuid()).collect()).await?;
    entries.retain(|entry| {
        let held = |loss: &Loss| loss.execution_id == entry.id && loss.epoch == entry.epoch;
        entry.state.is_held() && losses.iter().any(held)
    });
    keep_what_was_shown(conn, &mut entries, now).await?;
    let mut failed = Vec::new();
    for entry in &mut entries {
        if let Some(failure) = end(entry, now)? {
            failed.push((entry.id, failure));
        }
    }
    write_failures(conn, &failed).await?;
    save(conn, &entries).await?;
    Ok(entries
        .into_iter()
        .map(|entry| TakenBack {
            execution_id: entry.id,
            state: entry.state,
            eligible_at: entry.eligible_at,
            appended: entry.events,
        })
        .collect())
}

fn let_go(entry: &mut Entry, now: DateTime<Utc>) -> Result<Option<Failure>, StorageError> {
    let state =
        entry.change(Change::GiveBack, now).map_err(|error| StorageError::Corrupt(format!("{}: {error}", entry.id)))?;
    entry.take_epoch();
    if state == State::Cancelled {
        entry.close("lease", None);
        entry.write(EventBody::Cancelled, now)?;
    } else {
        entry.write(EventBody::Queued { reason: Some("given_back".to_owned()) }, now)?;
    }
    Ok(None)
}

/// The first loss goes back to the front at once; further ones without progress wait longer and longer.
fn lose(entry: &mut Entry, now: DateTime<Utc>) -> Result<Option<Failure>, StorageError> {
    entry.losses += 1;
    let change = if entry.losses > LOSSES { Change::Quarantine } else { Change::LoseLease };
    let state = entry.change(change, now).map_err(|error| StorageError::Corrupt(format!("{}: {error}", entry.id)))?;
    entry.take_epoch();
    match state {
        State::Queued => {
            let wait = match entry.losses {
                ..=1 => None,
                2 => Some(1),
                3 => Some(5),
                _ => Some(30),
            };
            entry.eligible_at = wait.map(|seconds| now + Duration::seconds(seconds));
            entry.write(EventBody::Queued { reason: Some("lease_lost".to_owned()) }, now)?;
            Ok(None)
        }
        State::Cancelled => {
            entry.close("lease", None);
            entry.write(EventBody::Cancelled, now)?;
            Ok(None)
        }
        _ => {
            let detail = "executors were lost again and again while they worked on it";
            let failure = Failure::new(FailureCode::ExecutorLost, detail);
            entry.write(EventBody::Failed { error: (&failure).into() }, now)?;
            Ok(Some(failure))
        }
    }
}

/// Stores the errors of executions that fail without a report.
pub(crate) async fn write_failures(
    conn: &AsyncPgConnection,
    failed: &[(ExecutionId, Failure)],
) -> Result<(), StorageError> {
    if failed.is_empty() {
        return Ok(());
    }
    let mut failures = Vec::with_capacity(failed.len());
    for (_, failure) in failed {
        failures.push(serde_json::to_value(failure).map_err(|error| StorageError::Corrupt(error.to_string()))?);
    }
    sql("INSERT INTO execution_results (execution_id, failure) SELECT * FROM unnest(?::uuid[], ?::jsonb[])")
        .bind::<Array<SqlUuid>, _>(failed.iter().map(|(id, _)| id.uuid()).collect::<Vec<_>>())
        .bind::<Array<Jsonb>, _>(failures)
        .execute(conn)
        .await?;
    Ok(())
}

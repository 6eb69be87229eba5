//! Stops: asked for by the owner, in one compare-and-set with the ownership in the query.

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Nullable, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{Change, EventBody, EventRecord, ExecutorId, State};
use protocol::read::Subject;
use uuid::Uuid;

use crate::{
    error::StorageError,
    kept::keep_what_was_shown,
    leader::write_as_leader,
    ledger::{lock, save},
    sql::sql,
};

/// Where an execution is after a stop.
#[derive(Debug, Clone)]
pub struct StopOutcome {
    /// Terminal, or cancelling.
    pub state: State,
    /// The attempt that has to obey: its fencing number before this call, which is what its executor knows it by.
    pub epoch: i32,
    /// Who holds it.
    pub executor_id: Option<ExecutorId>,
    /// The events of it.
    pub appended: Vec<EventRecord>,
    /// Whether this call changed anything.
    pub changed: bool,
}

#[derive(QueryableByName)]
struct Owned {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

/// Stops an execution: `None` when it is not the subject's. Stopping twice, or what is over, changes nothing.
///
/// # Errors
/// When the database cannot be reached or another process leads.
pub async fn stop(
    conn: &mut AsyncPgConnection,
    term: i64,
    subject: &Subject,
    force: bool,
    now: DateTime<Utc>,
) -> Result<Option<StopOutcome>, StorageError> {
    write_as_leader!(conn, term, stop_once(conn, subject, force, now))
}

async fn stop_once(
    conn: &AsyncPgConnection,
    subject: &Subject,
    force: bool,
    now: DateTime<Utc>,
) -> Result<Option<StopOutcome>, StorageError> {
    // Owners never change, so this look needs no lock.
    let owned: Option<Owned> = sql("SELECT e.id FROM executions e, (SELECT ?::uuid AS id, ?::uuid AS user_id, ?::uuid AS copy) s \
         WHERE e.id = s.id AND (s.user_id IS NULL OR e.user_id = s.user_id) AND (s.copy IS NULL OR e.user_engine_id = s.copy)")
    .bind::<SqlUuid, _>(subject.execution_id.uuid())
    .bind::<Nullable<SqlUuid>, _>(subject.user_id.map(domain::UserId::uuid))
    .bind::<Nullable<SqlUuid>, _>(subject.user_engine_id.map(domain::UserEngineId::uuid))
    .load(conn)
    .await?
    .pop();
    let Some(owned) = owned else { return Ok(None) };
    let mut entries = lock(conn, vec![owned.id]).await?;
    let Some(entry) = entries.first() else { return Ok(None) };
    let (held, epoch) = (entry.state.is_held(), entry.epoch);
    let executor_id = entry.executor_id.map(ExecutorId::from_uuid);
    // Asking twice is asking once; only force goes further.
    let changed = !entry.state.is_terminal() && (force || entry.state != State::Cancelling);
    if changed && (force || !held) {
        keep_what_was_shown(conn, &mut entries, now).await?;
    }
    for entry in entries.iter_mut().filter(|_| changed) {
        let change = if force { Change::ForceStop } else { Change::Stop };
        let state =
            entry.change(change, now).map_err(|error| StorageError::Corrupt(format!("{}: {error}", entry.id)))?;
        entry.stop.requested_at.get_or_insert(now);
        if state == State::Cancelled {
            entry.take_epoch();
            if held {
                entry.close("fence", None);
            } else {
                entry.close("status", Some(now));
            }
            entry.write(EventBody::Cancelled, now)?;
        }
    }
    save(conn, &entries).await?;
    Ok(entries.pop().map(|entry| StopOutcome {
        state: entry.state,
        epoch,
        executor_id,
        appended: entry.events,
        changed,
    }))
}

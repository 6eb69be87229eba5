//! Submissions become rows: several statements per batch, none per row. Side effects happen only for rows really inserted.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, Double, Jsonb, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{Event, EventBody, EventRecord, ExecutionId, Failure, Sequence, State, VersionId};
use protocol::submission::Submission;
use uuid::Uuid;

use crate::{
    error::StorageError,
    leader::write_as_leader,
    ledger::{chunk, state_of},
    sql::sql,
};

mod keys;
mod resumes;

pub use keys::replay;
use keys::replay_known_keys;
use resumes::refuse_second_resumes;

/// One submission with what intake decided about it.
#[derive(Debug, Clone)]
pub struct NewExecution<'a> {
    /// What came.
    pub submission: &'a Submission,
    /// Virtual start time in the fair queue.
    pub tag: f64,
    /// The submitter's `traceparent`.
    pub traceparent: Option<&'a str>,
    /// Set when it is taken in as failed.
    pub rejected: Option<Failure>,
}

/// What became of one submission.
#[derive(Debug, Clone)]
pub enum TakenIn {
    /// A new row.
    Inserted {
        /// Queued, or failed for a rejected one.
        state: State,
        /// Its first events.
        events: Vec<EventRecord>,
    },
    /// The row was there: the message came twice.
    Redelivered {
        /// Where it is now.
        state: State,
        /// Set when it was taken in as failed then.
        rejected: Option<Failure>,
    },
    /// The same Idempotency-Key and body came before.
    Replayed {
        /// The execution of then.
        execution_id: ExecutionId,
        /// Its version.
        version_id: VersionId,
        /// When it was made.
        created_at: DateTime<Utc>,
    },
    /// The same Idempotency-Key came before with another body.
    Mismatch,
    /// What it wants to resume is unfinished, completed, or not the owner's.
    NotResumable {
        /// One sentence.
        detail: String,
    },
}

#[derive(QueryableByName)]
struct IdRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

#[derive(QueryableByName)]
struct StateRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    user_id: Uuid,
    #[diesel(sql_type = SmallInt)]
    state: i16,
}

#[derive(QueryableByName)]
struct RejectedRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Jsonb)]
    failure: serde_json::Value,
}

/// Takes a batch into the ledger, in one transaction. The answers are in the order of the batch.
///
/// # Errors
/// [`StorageError::Poison`] when one of them cannot be written: halve the batch.
pub async fn take_in(
    conn: &mut AsyncPgConnection,
    term: i64,
    batch: &[NewExecution<'_>],
    now: DateTime<Utc>,
) -> Result<Vec<TakenIn>, StorageError> {
    write_as_leader!(conn, term, take_in_once(conn, batch, now))
}

async fn take_in_once(
    conn: &AsyncPgConnection,
    batch: &[NewExecution<'_>],
    now: DateTime<Utc>,
) -> Result<Vec<TakenIn>, StorageError> {
    let mut answers: Vec<Option<TakenIn>> = refuse_unresumable(conn, batch).await?;
    replay_known_keys(conn, batch, &mut answers).await?;
    refuse_second_resumes(conn, batch, &mut answers).await?;
    let open: Vec<usize> = (0..batch.len()).filter(|at| answers.get(*at).is_some_and(Option::is_none)).collect();
    let mut first_events = HashMap::new();
    for new in open.iter().filter_map(|at| batch.get(*at)) {
        first_events.insert(new.submission.execution_id.uuid(), first_event(new, now)?);
    }
    let mut inserted = insert(conn, batch, &open, &first_events, now).await?;
    inherit_units(conn, batch, &inserted).await?;
    let known = states(conn, batch, &open, &inserted).await?;
    let rejections = rejections(conn, &known).await?;
    for at in open {
        let (Some(new), Some(answer)) = (batch.get(at), answers.get_mut(at)) else { continue };
        let id = new.submission.execution_id.uuid();
        let state = if new.rejected.is_some() { State::Failed } else { State::Queued };
        // The second of two equal ids in one batch is a redelivery too.
        *answer = Some(if inserted.remove(&id) {
            TakenIn::Inserted { state, events: first_events.remove(&id).into_iter().collect() }
        } else {
            let rejected = match known.get(&id) {
                Some(_) => rejections.get(&id).cloned(),
                None => new.rejected.clone(),
            };
            TakenIn::Redelivered { state: known.get(&id).copied().unwrap_or(state), rejected }
        });
    }
    Ok(answers.into_iter().map(|answer| answer.unwrap_or(TakenIn::Mismatch)).collect())
}

fn first_event(new: &NewExecution<'_>, now: DateTime<Utc>) -> Result<EventRecord, StorageError> {
    let body = match &new.rejected {
        None => EventBody::Queued { reason: None },
        Some(failure) => EventBody::Failed { error: failure.into() },
    };
    let event = Event {
        sequence: Sequence::new(0, 1),
        prev: Sequence::START,
        execution_id: new.submission.execution_id,
        attempt: 0,
        at: now,
        body,
    };
    event.record().map_err(|error| StorageError::Corrupt(error.to_string()))
}

/// A resume needs a failed, cancelled or expired execution of the same owner.
async fn refuse_unresumable(
    conn: &AsyncPgConnection,
    batch: &[NewExecution<'_>],
) -> Result<Vec<Option<TakenIn>>, StorageError> {
    let resumed = |new: &NewExecution<'_>| new.submission.parent.filter(|parent| parent.inherit);
    let parents: Vec<Uuid> = batch.iter().filter_map(resumed).map(|parent| parent.execution_id.uuid()).collect();
    let rows = if parents.is_empty() { Vec::new() } else { read_states(conn, parents).await? };
    let rows: HashMap<Uuid, StateRow> = rows.into_iter().map(|row| (row.id, row)).collect();
    Ok(batch
        .iter()
        .map(|new| {
            let parent = resumed(new)?;
            let row = rows.get(&parent.execution_id.uuid());
            let state = row
                .filter(|row| row.user_id == new.submission.user_id.uuid())
                .and_then(|row| State::from_code(row.state));
            let detail = match state {
                Some(State::Failed | State::Cancelled | State::Expired) => return None,
                Some(State::Completed) => "a completed execution has nothing to resume".to_owned(),
                Some(state) => format!("an execution that is {} cannot be resumed", state.as_str()),
                None => "the execution to resume is not there".to_owned(),
            };
            Some(TakenIn::NotResumable { detail })
        })
        .collect())
}

async fn read_states(conn: &AsyncPgConnection, ids: Vec<Uuid>) -> Result<Vec<StateRow>, StorageError> {
    Ok(sql("SELECT id, user_id, state FROM executions WHERE id = ANY(?)")
        .bind::<Array<SqlUuid>, _>(ids)
        .load(conn)
        .await?)
}

async fn insert(
    conn: &AsyncPgConnection,
    batch: &[NewExecution<'_>],
    open: &[usize],
    first_events: &HashMap<Uuid, EventRecord>,
    now: DateTime<Utc>,
) -> Result<HashSet<Uuid>, StorageError> {
    let mut seen = HashSet::new();
    let rows: Vec<&NewExecution<'_>> =
        open.iter().filter_map(|at| batch.get(*at)).filter(|new| seen.insert(new.submission.execution_id)).collect();
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    let mut chunks = Vec::with_capacity(rows.len());
    let mut failures = Vec::with_capacity(rows.len());
    for new in &rows {
        let events =
            first_events.get(&new.submission.execution_id.uuid()).map(std::slice::from_ref).unwrap_or_default();
        chunks.push(chunk(events)?);
        failures.push(json(new.rejected.as_ref())?);
    }
    let labels: Vec<serde_json::Value> =
        rows.iter().map(|new| serde_json::to_value(&new.submission.labels).unwrap_or_default()).collect();
    let submissions: Vec<&Submission> = rows.iter().map(|new| new.submission).collect();
    let column = |value: fn(&Submission) -> Uuid| -> Vec<Uuid> { submissions.iter().map(|s| value(s)).collect() };
    let ids: Vec<IdRow> = sql("WITH n AS (SELECT * FROM unnest(?::uuid[], ?::uuid[], ?::uuid[], ?::uuid[], ?::uuid[], ?::uuid[], \
         ?::uuid[], ?::timestamptz[], ?::timestamptz[], ?::timestamptz[], ?::float8[], ?::smallint[], ?::smallint[], ?::text[], \
         ?::jsonb[], ?::text[], ?::text[], ?::text[], ?::jsonb[]) AS n(id, user_id, engine_id, user_engine_id, version_id, parent_id, \
         key_id, created_at, queue_deadline_at, deadline_at, tag, priority, state, input, labels, end_user, traceparent, records, failure)), \
         i AS (INSERT INTO executions (id, user_id, engine_id, user_engine_id, version_id, parent_id, created_at, queue_deadline_at, \
         deadline_at, tag, priority, state, last_sequence, finished_at) SELECT id, user_id, engine_id, user_engine_id, version_id, parent_id, \
         created_at, queue_deadline_at, deadline_at, tag, priority, state, 1, CASE WHEN state >= 4 THEN ?::timestamptz END FROM n \
         ON CONFLICT DO NOTHING RETURNING id), \
         d AS (INSERT INTO execution_details (execution_id, key_id, input, labels, end_user, traceparent) \
         SELECT id, key_id, input, labels, end_user, traceparent FROM n JOIN i USING (id)), \
         v AS (INSERT INTO events (execution_id, first_sequence, last_sequence, records) SELECT id, 1, 1, records FROM n JOIN i USING (id)), \
         r AS (INSERT INTO execution_results (execution_id, failure) SELECT id, failure FROM n JOIN i USING (id) WHERE failure IS NOT NULL) \
         SELECT id FROM i")
    .bind::<Array<SqlUuid>, _>(column(|s| s.execution_id.uuid()))
    .bind::<Array<SqlUuid>, _>(column(|s| s.user_id.uuid()))
    .bind::<Array<SqlUuid>, _>(column(|s| s.engine_id.uuid()))
    .bind::<Array<Nullable<SqlUuid>>, _>(submissions.iter().map(|s| s.user_engine_id.map(domain::UserEngineId::uuid)).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(column(|s| s.version_id.uuid()))
    .bind::<Array<Nullable<SqlUuid>>, _>(submissions.iter().map(|s| s.parent.map(|p| p.execution_id.uuid())).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(column(|s| s.key_id.uuid()))
    .bind::<Array<Timestamptz>, _>(submissions.iter().map(|s| s.submitted_at).collect::<Vec<_>>())
    .bind::<Array<Nullable<Timestamptz>>, _>(submissions.iter().map(|s| s.queue_deadline_at).collect::<Vec<_>>())
    .bind::<Array<Nullable<Timestamptz>>, _>(submissions.iter().map(|s| s.deadline_at).collect::<Vec<_>>())
    .bind::<Array<Double>, _>(rows.iter().map(|new| new.tag).collect::<Vec<_>>())
    .bind::<Array<SmallInt>, _>(submissions.iter().map(|s| s.priority.code()).collect::<Vec<_>>())
    .bind::<Array<SmallInt>, _>(rows.iter().map(|new| if new.rejected.is_some() { State::Failed } else { State::Queued }.code()).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(submissions.iter().map(|s| s.input.get().to_owned()).collect::<Vec<_>>())
    .bind::<Array<Jsonb>, _>(labels)
    .bind::<Array<Nullable<Text>>, _>(submissions.iter().map(|s| s.end_user.clone()).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(rows.iter().map(|new| new.traceparent.map(str::to_owned)).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(chunks)
    .bind::<Array<Nullable<Jsonb>>, _>(failures)
    .bind::<Timestamptz, _>(now)
    .load(conn)
    .await?;
    Ok(ids.into_iter().map(|row| row.id).collect())
}

fn json<T: serde::Serialize>(value: Option<&T>) -> Result<Option<serde_json::Value>, StorageError> {
    value.map(serde_json::to_value).transpose().map_err(|error| StorageError::Corrupt(error.to_string()))
}

/// Copies the finished units of what is resumed.
async fn inherit_units(
    conn: &AsyncPgConnection,
    batch: &[NewExecution<'_>],
    inserted: &HashSet<Uuid>,
) -> Result<(), StorageError> {
    let (mut parents, mut children) = (Vec::new(), Vec::new());
    for submission in batch.iter().map(|new| new.submission) {
        let parent = submission.parent.filter(|parent| parent.inherit);
        if let Some(parent) = parent.filter(|_| inserted.contains(&submission.execution_id.uuid())) {
            parents.push(parent.execution_id.uuid());
            children.push(submission.execution_id.uuid());
        }
    }
    if parents.is_empty() {
        return Ok(());
    }
    sql("INSERT INTO units (execution_id, node, unit, epoch, complete, inherited, output, tokens) \
         SELECT n.child, u.node, u.unit, 0, true, true, u.output, u.tokens FROM unnest(?::uuid[], ?::uuid[]) AS n(parent, child) \
         JOIN units u ON u.execution_id = n.parent WHERE u.complete")
    .bind::<Array<SqlUuid>, _>(parents)
    .bind::<Array<SqlUuid>, _>(children)
    .execute(conn)
    .await?;
    Ok(())
}

async fn states(
    conn: &AsyncPgConnection,
    batch: &[NewExecution<'_>],
    open: &[usize],
    inserted: &HashSet<Uuid>,
) -> Result<HashMap<Uuid, State>, StorageError> {
    let ids: Vec<Uuid> = open
        .iter()
        .filter_map(|at| batch.get(*at))
        .map(|new| new.submission.execution_id.uuid())
        .filter(|id| !inserted.contains(id))
        .collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = read_states(conn, ids).await?;
    rows.into_iter().map(|row| Ok((row.id, state_of(row.state)?))).collect()
}

/// Why those that failed without ever having started were refused.
async fn rejections(
    conn: &AsyncPgConnection,
    known: &HashMap<Uuid, State>,
) -> Result<HashMap<Uuid, Failure>, StorageError> {
    let failed: Vec<Uuid> = known.iter().filter(|(_, state)| **state == State::Failed).map(|(id, _)| *id).collect();
    if failed.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<RejectedRow> =
        sql("SELECT e.id, r.failure FROM executions e JOIN execution_results r ON r.execution_id = e.id \
                                      WHERE e.id = ANY(?) AND e.started_at IS NULL AND r.failure IS NOT NULL")
        .bind::<Array<SqlUuid>, _>(failed)
        .load(conn)
        .await?;
    let read = |row: RejectedRow| Ok((row.id, serde_json::from_value(row.failure)?));
    rows.into_iter()
        .map(read)
        .collect::<Result<_, serde_json::Error>>()
        .map_err(|error| StorageError::Corrupt(error.to_string()))
}

//! Executions as their owners see them. Ownership is part of every query; a page is a bounded number of statements.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Bool, Integer, Jsonb, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{EngineId, ExecutionId, Priority, Sequence, State, UserEngineId, UserId, VersionId, WaitingReason};
use protocol::{
    read::{ExecutionPage, ExecutionView, ListExecutions, StopReceipt, Subject},
    report::{DeliverableRow, Progress},
};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{error::StorageError, ledger::state_of, sql::sql};

mod summary;

pub use summary::{is_owned, source, stats};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    user_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    engine_id: Uuid,
    #[diesel(sql_type = Nullable<Text>)]
    engine_name: Option<String>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    user_engine_id: Option<Uuid>,
    #[diesel(sql_type = SqlUuid)]
    version_id: Uuid,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    parent_id: Option<Uuid>,
    #[diesel(sql_type = Timestamptz)]
    created_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    deadline_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = SmallInt)]
    priority: i16,
    #[diesel(sql_type = SmallInt)]
    state: i16,
    #[diesel(sql_type = Nullable<SmallInt>)]
    waiting_reason: Option<i16>,
    #[diesel(sql_type = Integer)]
    epoch: i32,
    #[diesel(sql_type = BigInt)]
    last_sequence: i64,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    eligible_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    started_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    finished_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    stop_requested_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    executor_ack_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    upstream_closed_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Text>)]
    closed_by: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    tokens_at_stop: Option<i64>,
    #[diesel(sql_type = BigInt)]
    input_tokens: i64,
    #[diesel(sql_type = BigInt)]
    output_tokens: i64,
    #[diesel(sql_type = Integer)]
    nodes_done: i32,
    #[diesel(sql_type = Integer)]
    nodes_total: i32,
    #[diesel(sql_type = Integer)]
    units_done: i32,
    #[diesel(sql_type = Integer)]
    units_total: i32,
    #[diesel(sql_type = BigInt)]
    words: i64,
    #[diesel(sql_type = Nullable<Text>)]
    current_node: Option<String>,
    #[diesel(sql_type = Nullable<Jsonb>)]
    labels: Option<serde_json::Value>,
    #[diesel(sql_type = Nullable<Text>)]
    end_user: Option<String>,
    #[diesel(sql_type = Nullable<Jsonb>)]
    failure: Option<serde_json::Value>,
}

#[derive(QueryableByName)]
struct ResultRow {
    #[diesel(sql_type = Nullable<Text>)]
    result: Option<String>,
    #[diesel(sql_type = Nullable<Jsonb>)]
    failure: Option<serde_json::Value>,
}

#[derive(QueryableByName)]
struct UnitRow {
    #[diesel(sql_type = Text)]
    node: String,
    #[diesel(sql_type = Integer)]
    unit: i32,
    #[diesel(sql_type = Bool)]
    complete: bool,
    #[diesel(sql_type = Text)]
    output: String,
    #[diesel(sql_type = BigInt)]
    tokens: i64,
}

#[derive(QueryableByName)]
struct DeliverableEntry {
    #[diesel(sql_type = SqlUuid)]
    execution_id: Uuid,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    format: String,
    #[diesel(sql_type = Text)]
    media_type: String,
    #[diesel(sql_type = BigInt)]
    bytes: i64,
    #[diesel(sql_type = Nullable<Text>)]
    object_key: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    error: Option<String>,
}

/// One execution of the subject, with its result.
///
/// # Errors
/// When the database cannot be reached.
pub async fn get(conn: &mut AsyncPgConnection, subject: &Subject) -> Result<Option<ExecutionView>, StorageError> {
    let row: Option<Row> = sql("SELECT e.*, g.name AS engine_name, d.labels, d.end_user, NULL::jsonb AS failure FROM executions e \
         JOIN (SELECT ?::uuid AS id, ?::uuid AS user_id, ?::uuid AS copy) s ON e.id = s.id AND (s.user_id IS NULL OR e.user_id = s.user_id) \
         AND (s.copy IS NULL OR e.user_engine_id = s.copy) LEFT JOIN engines g ON g.id = e.engine_id \
         LEFT JOIN execution_details d ON d.execution_id = e.id")
    .bind::<SqlUuid, _>(subject.execution_id.uuid())
    .bind::<Nullable<SqlUuid>, _>(subject.user_id.map(UserId::uuid))
    .bind::<Nullable<SqlUuid>, _>(subject.user_engine_id.map(UserEngineId::uuid))
    .load(conn)
    .await?
    .pop();
    let Some(row) = row else { return Ok(None) };
    let mut view = view(row)?;
    if view.state.is_terminal() {
        complete(conn, &mut view).await?;
    }
    Ok(Some(view))
}

/// Adds what only an ended execution has: the result or what is kept of it, the error and the files.
async fn complete(conn: &AsyncPgConnection, view: &mut ExecutionView) -> Result<(), StorageError> {
    let id = view.execution_id.uuid();
    let stored: Option<ResultRow> = sql("SELECT result, failure FROM execution_results WHERE execution_id = ?")
        .bind::<SqlUuid, _>(id)
        .load(conn)
        .await?
        .pop();
    if let Some(stored) = stored {
        view.result = stored.result.map(raw).transpose()?;
        view.failure = stored.failure.map(failure).transpose()?;
    }
    view.deliverables = deliverables(conn, vec![id]).await?.remove(&id).unwrap_or_default();
    if view.state == State::Completed {
        return Ok(());
    }
    let units: Vec<UnitRow> = sql(
        "SELECT node, unit, complete, output, tokens FROM units WHERE execution_id = ? ORDER BY node, unit LIMIT 10000",
    )
    .bind::<SqlUuid, _>(id)
    .load(conn)
    .await?;
    view.completed_units = u32::try_from(units.iter().filter(|unit| unit.complete).count()).unwrap_or(u32::MAX);
    view.tokens_saved = units.iter().filter(|unit| unit.complete).map(|unit| unit.tokens).sum();
    if !units.is_empty() {
        view.result = Some(partial(units)?);
    }
    Ok(())
}

/// `{"partial": {"<node>": [{"unit": 0, "complete": true, "output": ..}, ..]}}`.
fn partial(units: Vec<UnitRow>) -> Result<Box<RawValue>, StorageError> {
    #[derive(serde::Serialize)]
    struct Kept {
        unit: i32,
        complete: bool,
        output: Box<RawValue>,
    }
    let mut nodes: BTreeMap<String, Vec<Kept>> = BTreeMap::new();
    for row in units {
        let kept = Kept { unit: row.unit, complete: row.complete, output: raw(row.output)? };
        nodes.entry(row.node).or_default().push(kept);
    }
    serde_json::value::to_raw_value(&BTreeMap::from([("partial", nodes)]))
        .map_err(|error| StorageError::Corrupt(error.to_string()))
}

fn raw(text: String) -> Result<Box<RawValue>, StorageError> {
    RawValue::from_string(text).map_err(|error| StorageError::Corrupt(error.to_string()))
}

fn failure(value: serde_json::Value) -> Result<domain::Failure, StorageError> {
    serde_json::from_value(value).map_err(|error| StorageError::Corrupt(error.to_string()))
}

async fn deliverables(
    conn: &AsyncPgConnection,
    ids: Vec<Uuid>,
) -> Result<HashMap<Uuid, Vec<DeliverableRow>>, StorageError> {
    let rows: Vec<DeliverableEntry> =
        sql("SELECT execution_id, name, format, media_type, bytes, object_key, error FROM deliverables \
                                           WHERE execution_id = ANY(?) ORDER BY execution_id, name")
        .bind::<Array<SqlUuid>, _>(ids)
        .load(conn)
        .await?;
    let mut found: HashMap<Uuid, Vec<DeliverableRow>> = HashMap::new();
    for row in rows {
        found.entry(row.execution_id).or_default().push(DeliverableRow {
            format: row.format,
            name: row.name,
            media_type: row.media_type,
            bytes: row.bytes,
            object_key: row.object_key,
            error: row.error,
        });
    }
    Ok(found)
}

fn view(row: Row) -> Result<ExecutionView, StorageError> {
    let state = state_of(row.state)?;
    let stop = row.stop_requested_at.map(|requested_at| StopReceipt {
        requested_at,
        executor_ack_at: row.executor_ack_at,
        upstream_closed_at: row.upstream_closed_at,
        closed_by: row.closed_by.clone(),
        finished_at: row.finished_at,
        tokens_at_stop: row.tokens_at_stop,
    });
    let labels = row.labels.map(serde_json::from_value).transpose();
    Ok(ExecutionView {
        execution_id: ExecutionId::from_uuid(row.id),
        user_id: UserId::from_uuid(row.user_id),
        state,
        waiting_reason: row.waiting_reason.and_then(WaitingReason::from_code),
        wake_at: row.eligible_at.filter(|_| state == State::Waiting),
        engine_id: EngineId::from_uuid(row.engine_id),
        engine_name: row.engine_name.unwrap_or_default(),
        user_engine_id: row.user_engine_id.map(UserEngineId::from_uuid),
        version_id: VersionId::from_uuid(row.version_id),
        attempt: row.epoch,
        progress: Progress {
            nodes_done: row.nodes_done.unsigned_abs(),
            nodes_total: row.nodes_total.unsigned_abs(),
            units_done: row.units_done.unsigned_abs(),
            units_total: row.units_total.unsigned_abs(),
            words: row.words.unsigned_abs(),
            current_node: row.current_node,
        },
        input_tokens: row.input_tokens,
        output_tokens: row.output_tokens,
        queue: None,
        stop,
        result: None,
        failure: row.failure.map(failure).transpose()?,
        completed_units: 0,
        tokens_saved: 0,
        deliverables: Vec::new(),
        labels: labels.map_err(|error| StorageError::Corrupt(error.to_string()))?.unwrap_or_default(),
        end_user: row.end_user,
        priority: Priority::from_code(row.priority).unwrap_or_default(),
        parent_id: row.parent_id.map(ExecutionId::from_uuid),
        created_at: row.created_at,
        started_at: row.started_at,
        finished_at: row.finished_at,
        deadline_at: row.deadline_at,
        last_sequence: Sequence(row.last_sequence),
    })
}

macro_rules! list_columns {
    () => {
        "e.*, g.name AS engine_name, d.labels, d.end_user, r.failure FROM executions e LEFT JOIN engines g ON g.id = e.engine_id \
         LEFT JOIN execution_details d ON d.execution_id = e.id LEFT JOIN execution_results r ON r.execution_id = e.id"
    };
}

macro_rules! list_filter {
    () => {
        "(e.created_at, e.id) < (?, ?) AND e.created_at >= ? AND e.created_at < ? AND e.state = ANY(?) AND COALESCE(d.labels, '{}') @> ? \
         AND e.user_engine_id IS NOT DISTINCT FROM COALESCE(?, e.user_engine_id) AND e.engine_id = COALESCE(?, e.engine_id) \
         ORDER BY e.created_at DESC, e.id DESC LIMIT ?"
    };
}

/// After every execution: the year 9999.
const FAR: i64 = 253_402_300_799;

/// A page of executions, newest first, without their results.
///
/// # Errors
/// When the database cannot be reached.
pub async fn list(conn: &mut AsyncPgConnection, query: &ListExecutions) -> Result<ExecutionPage, StorageError> {
    let limit = query.limit.clamp(1, 100);
    let states: Vec<State> = if query.states.is_empty() { State::ALL.to_vec() } else { query.states.clone() };
    let labels = serde_json::to_value(&query.labels).unwrap_or_default();
    let far = DateTime::from_timestamp(FAR, 0).unwrap_or_default();
    let (after_at, after_id) = query.after.map_or((far, Uuid::max()), |(at, id)| (at, id.uuid()));
    // With an owner the index on (user_id, created_at, id) finds the page; a condition that may be null would hide it.
    let list = match query.user_id {
        Some(user) => sql(concat!("SELECT ", list_columns!(), " WHERE e.user_id = ? AND ", list_filter!()))
            .bind::<SqlUuid, _>(user.uuid()),
        None => sql(concat!("SELECT ", list_columns!(), " WHERE ", list_filter!())),
    };
    let mut rows: Vec<Row> = list
        .bind::<Timestamptz, _>(after_at)
        .bind::<SqlUuid, _>(after_id)
        .bind::<Timestamptz, _>(query.created_after.unwrap_or_default())
        .bind::<Timestamptz, _>(query.created_before.unwrap_or(far))
        .bind::<Array<SmallInt>, _>(states.iter().map(|state| state.code()).collect::<Vec<_>>())
        .bind::<Jsonb, _>(labels)
        .bind::<Nullable<SqlUuid>, _>(query.user_engine_id.map(UserEngineId::uuid))
        .bind::<Nullable<SqlUuid>, _>(query.engine_id.map(EngineId::uuid))
        .bind::<BigInt, _>(i64::from(limit) + 1)
        .load(conn)
        .await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let mut files = deliverables(conn, rows.iter().map(|row| row.id).collect()).await?;
    let mut executions = rows.into_iter().map(view).collect::<Result<Vec<_>, _>>()?;
    for execution in &mut executions {
        execution.deliverables = files.remove(&execution.execution_id.uuid()).unwrap_or_default();
    }
    Ok(ExecutionPage { executions, more })
}

//! Pages of executions. However long the history is, one page looks at a bounded part of it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Jsonb, SmallInt, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{EngineId, ExecutionId, State, UserEngineId};
use protocol::read::{ExecutionPage, ExecutionView, ListExecutions};
use uuid::Uuid;

use super::{Row, deliverables, view};
use crate::{
    error::StorageError,
    sql::{Sql, sql},
};

/// How many executions a page looks at when its filter may match few of them.
const WINDOW: i64 = 5_000;

/// A place in the order `created_at desc, id desc`.
type Place = (DateTime<Utc>, ExecutionId);

#[derive(QueryableByName)]
struct PlaceRow {
    #[diesel(sql_type = Timestamptz)]
    created_at: DateTime<Utc>,
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

#[derive(QueryableByName)]
struct CountRow {
    #[diesel(sql_type = SqlUuid)]
    execution_id: Uuid,
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// A page of executions, newest first, without their results. With a filter that matches rarely a page may have fewer entries
/// than asked for, even none, and still a next one. Without an owner the order is that of the ids, which are made in the order
/// of time.
///
/// # Errors
/// When the database cannot be reached.
pub async fn list(conn: &mut AsyncPgConnection, query: &ListExecutions) -> Result<ExecutionPage, StorageError> {
    let limit = query.limit.clamp(1, 100) as usize;
    let mut end = if is_sparse(query) { end_of_window(conn, query).await? } else { None };
    let mut rows: Vec<Row> = matching(query, end, limit).load(conn).await?;
    if rows.len() <= limit && end.is_some() && !query.labels.is_empty() {
        // Rare labels: their index finds all of them.
        end = None;
        rows = matching(query, None, limit).load(conn).await?;
    }
    let next = if rows.len() > limit {
        rows.truncate(limit);
        rows.last().map(|last| (last.created_at, ExecutionId::from_uuid(last.id)))
    } else {
        end
    };
    let mut executions = rows.into_iter().map(view).collect::<Result<Vec<_>, _>>()?;
    let ids = executions.iter().map(|execution| execution.execution_id.uuid()).collect();
    let mut files = deliverables(conn, ids).await?;
    let units = completed_units(conn, &executions).await?;
    for execution in &mut executions {
        let id = execution.execution_id.uuid();
        execution.deliverables = files.remove(&id).unwrap_or_default();
        execution.completed_units = units.get(&id).map_or(0, |count| u32::try_from(*count).unwrap_or(u32::MAX));
    }
    Ok(ExecutionPage { executions, next })
}

/// What a resume of each failed, cancelled or expired one would inherit.
async fn completed_units(
    conn: &AsyncPgConnection,
    executions: &[ExecutionView],
) -> Result<HashMap<Uuid, i64>, StorageError> {
    let ended = |execution: &&ExecutionView| execution.state.is_terminal() && execution.state != State::Completed;
    let ids: Vec<Uuid> = executions.iter().filter(ended).map(|execution| execution.execution_id.uuid()).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<CountRow> =
        sql("SELECT execution_id, count(*) AS count FROM units WHERE execution_id = ANY(?) AND complete \
                                   GROUP BY execution_id")
        .bind::<Array<SqlUuid>, _>(ids)
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|row| (row.execution_id, row.count)).collect())
}

/// What is unfinished has an index of its own, and is never more than the backlog.
fn is_unfinished(query: &ListExecutions) -> bool {
    !query.states.is_empty() && query.states.iter().all(|state| !state.is_terminal())
}

/// Whether a page might have to look at the whole history to be full.
fn is_sparse(query: &ListExecutions) -> bool {
    let filtered = !query.states.is_empty()
        || !query.labels.is_empty()
        || query.engine_id.is_some()
        || query.user_engine_id.is_some()
        || (query.user_id.is_none() && query.created_before.is_some());
    filtered && !is_unfinished(query)
}

/// The last execution of the window that begins after the page before; `None` when the history ends in it.
async fn end_of_window(conn: &AsyncPgConnection, query: &ListExecutions) -> Result<Option<Place>, StorageError> {
    let rows: Vec<PlaceRow> = in_order(within(sql("SELECT e.created_at, e.id FROM executions e WHERE "), query), query)
        .then(" OFFSET ? LIMIT 1")
        .bind::<BigInt, _>(WINDOW - 1)
        .load(conn)
        .await?;
    Ok(rows.first().map(|row| (row.created_at, ExecutionId::from_uuid(row.id))))
}

/// Whose they are, and which part of the order: what an index finds without looking at anything else.
fn within(statement: Sql, query: &ListExecutions) -> Sql {
    let mut statement = match query.user_id {
        Some(user) => statement.then("e.user_id = ?").bind::<SqlUuid, _>(user.uuid()),
        None => statement.then("true"),
    };
    if let Some((at, id)) = query.after {
        statement = match query.user_id {
            Some(_) => statement.then(" AND (e.created_at, e.id) < (?, ?)").bind::<Timestamptz, _>(at),
            None => statement.then(" AND e.id < ?"),
        };
        statement = statement.bind::<SqlUuid, _>(id.uuid());
    }
    if let Some(at) = query.created_after {
        statement = statement.then(" AND e.created_at >= ?").bind::<Timestamptz, _>(at);
    }
    if let Some(at) = query.created_before.filter(|_| query.user_id.is_some()) {
        statement = statement.then(" AND e.created_at < ?").bind::<Timestamptz, _>(at);
    }
    statement
}

fn in_order(statement: Sql, query: &ListExecutions) -> Sql {
    statement.then(if query.user_id.is_some() {
        " ORDER BY e.created_at DESC, e.id DESC"
    } else {
        " ORDER BY e.id DESC"
    })
}

/// One more than asked for, so that it is known whether there are more.
fn matching(query: &ListExecutions, end: Option<Place>, limit: usize) -> Sql {
    let columns = "SELECT e.*, g.name AS engine_name, d.labels, d.end_user, r.failure FROM executions e \
         LEFT JOIN engines g ON g.id = e.engine_id LEFT JOIN execution_details d ON d.execution_id = e.id \
         LEFT JOIN execution_results r ON r.execution_id = e.id WHERE ";
    let mut statement = within(sql(columns), query);
    if let Some((at, id)) = end {
        statement = match query.user_id {
            Some(_) => statement.then(" AND (e.created_at, e.id) >= (?, ?)").bind::<Timestamptz, _>(at),
            None => statement.then(" AND e.id >= ?"),
        };
        statement = statement.bind::<SqlUuid, _>(id.uuid());
    }
    if let Some(at) = query.created_before.filter(|_| query.user_id.is_none()) {
        statement = statement.then(" AND e.created_at < ?").bind::<Timestamptz, _>(at);
    }
    if is_unfinished(query) {
        statement = statement.then(" AND e.finished_at IS NULL");
    }
    if !query.states.is_empty() {
        let states: Vec<i16> = query.states.iter().map(|state| state.code()).collect();
        statement = statement.then(" AND e.state = ANY(?)").bind::<Array<SmallInt>, _>(states);
    }
    if !query.labels.is_empty() {
        let labels = serde_json::to_value(&query.labels).unwrap_or_default();
        // The first condition is that of the partial index.
        statement = statement.then(" AND d.labels <> '{}' AND d.labels @> ?").bind::<Jsonb, _>(labels);
    }
    if let Some(copy) = query.user_engine_id.map(UserEngineId::uuid) {
        statement = statement.then(" AND e.user_engine_id = ?").bind::<SqlUuid, _>(copy);
    }
    if let Some(engine) = query.engine_id.map(EngineId::uuid) {
        statement = statement.then(" AND e.engine_id = ?").bind::<SqlUuid, _>(engine);
    }
    let more = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    in_order(statement, query).then(" LIMIT ?").bind::<BigInt, _>(more)
}

//! Everything that is unfinished: what a new leader rebuilds its index from, and what the minute check compares with.

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Double, Integer, Nullable, SmallInt, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{EngineId, ExecutionId, ExecutorId, Priority, State, UserId};
use uuid::Uuid;

use crate::{error::StorageError, ledger::state_of, sql::sql};

/// How many rows are read at once.
const PAGE: i64 = 20_000;

/// One unfinished execution.
#[derive(Debug, Clone)]
pub struct Unfinished {
    /// Which execution.
    pub execution_id: ExecutionId,
    /// The owner.
    pub user_id: UserId,
    /// The engine.
    pub engine_id: EngineId,
    /// How urgent.
    pub priority: Priority,
    /// Virtual start time in the fair queue.
    pub tag: f64,
    /// Where it is.
    pub state: State,
    /// The fencing number.
    pub epoch: i32,
    /// Who holds it.
    pub executor_id: Option<ExecutorId>,
    /// Whether it ever ran: then it goes in front.
    pub started: bool,
    /// When it may be released (queued) or wakes (waiting).
    pub eligible_at: Option<DateTime<Utc>>,
    /// When it ends if nothing else ends it.
    pub due_at: Option<DateTime<Utc>>,
    /// The owner's share in the fair queue.
    pub weight: f64,
    /// The owner's limit of executions at once.
    pub max_running: Option<u32>,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    user_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    engine_id: Uuid,
    #[diesel(sql_type = SmallInt)]
    priority: i16,
    #[diesel(sql_type = Double)]
    tag: f64,
    #[diesel(sql_type = SmallInt)]
    state: i16,
    #[diesel(sql_type = Integer)]
    epoch: i32,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    executor_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    started_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    eligible_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    due_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Double)]
    weight: f64,
    #[diesel(sql_type = Nullable<Integer>)]
    max_running: Option<i32>,
}

/// Every unfinished execution, in order of id.
///
/// # Errors
/// When the database cannot be reached.
pub async fn unfinished(conn: &mut AsyncPgConnection) -> Result<Vec<Unfinished>, StorageError> {
    let mut all: Vec<Unfinished> = Vec::new();
    loop {
        let after = all.last().map_or(Uuid::nil(), |last| last.execution_id.uuid());
        let page: Vec<Row> = sql("SELECT e.id, e.user_id, e.engine_id, e.priority, e.tag, e.state, e.epoch, e.executor_id, e.started_at, \
             e.eligible_at, LEAST(CASE WHEN e.started_at IS NULL THEN e.queue_deadline_at END, e.deadline_at) AS due_at, \
             COALESCE(l.weight, 1) AS weight, l.max_running FROM executions e LEFT JOIN users u ON u.id = e.user_id \
             LEFT JOIN levels l ON l.id = u.level_id WHERE e.finished_at IS NULL AND e.id > ? ORDER BY e.id LIMIT ?")
        .bind::<SqlUuid, _>(after)
        .bind::<BigInt, _>(PAGE)
        .load(conn)
        .await?;
        let last = i64::try_from(page.len()).unwrap_or(i64::MAX) < PAGE;
        for row in page {
            all.push(row.try_into()?);
        }
        if last {
            return Ok(all);
        }
    }
}

/// Those of `ids` that are unfinished.
///
/// # Errors
/// When the database cannot be reached.
pub async fn some(conn: &mut AsyncPgConnection, ids: &[ExecutionId]) -> Result<Vec<Unfinished>, StorageError> {
    let rows: Vec<Row> =
        sql("SELECT e.id, e.user_id, e.engine_id, e.priority, e.tag, e.state, e.epoch, e.executor_id, e.started_at, \
         e.eligible_at, LEAST(CASE WHEN e.started_at IS NULL THEN e.queue_deadline_at END, e.deadline_at) AS due_at, \
             COALESCE(l.weight, 1) AS weight, l.max_running FROM executions e LEFT JOIN users u ON u.id = e.user_id \
         LEFT JOIN levels l ON l.id = u.level_id WHERE e.finished_at IS NULL AND e.id = ANY(?)")
        .bind::<diesel::sql_types::Array<SqlUuid>, _>(ids.iter().map(|id| id.uuid()).collect::<Vec<_>>())
        .load(conn)
        .await?;
    rows.into_iter().map(Unfinished::try_from).collect()
}

impl TryFrom<Row> for Unfinished {
    type Error = StorageError;

    fn try_from(row: Row) -> Result<Self, StorageError> {
        Ok(Self {
            execution_id: ExecutionId::from_uuid(row.id),
            user_id: UserId::from_uuid(row.user_id),
            engine_id: EngineId::from_uuid(row.engine_id),
            priority: Priority::from_code(row.priority).unwrap_or_default(),
            tag: row.tag,
            state: state_of(row.state)?,
            epoch: row.epoch,
            executor_id: row.executor_id.map(ExecutorId::from_uuid),
            started: row.started_at.is_some(),
            eligible_at: row.eligible_at,
            due_at: row.due_at,
            weight: row.weight,
            max_running: row.max_running.map(i32::unsigned_abs),
        })
    }
}

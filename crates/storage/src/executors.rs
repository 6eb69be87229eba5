//! Executors and their leases: one row per boot, on the database's clock alone.

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{ExecutionId, ExecutorId};
use protocol::{claim::Renewal, operate::ExecutorView};
use uuid::Uuid;

use crate::{error::StorageError, fence::Loss, leader::write_as_leader, sql::sql};

/// The answer to a renewal.
#[derive(Debug, Clone, Copy)]
pub struct Renewed {
    /// Whether an operator asked it to drain.
    pub drain_requested: bool,
}

#[derive(QueryableByName)]
struct RenewedRow {
    #[diesel(sql_type = Bool)]
    drain_requested: bool,
}

#[derive(QueryableByName)]
struct HoldRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Integer)]
    epoch: i32,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    executor_id: Option<Uuid>,
}

#[derive(QueryableByName)]
struct ViewRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    version: String,
    #[diesel(sql_type = Integer)]
    slots: i32,
    #[diesel(sql_type = BigInt)]
    running: i64,
    #[diesel(sql_type = Bool)]
    draining: bool,
    #[diesel(sql_type = Timestamptz)]
    started_at: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    lease_until: DateTime<Utc>,
}

/// Renews the lease of an executor on everything it holds; a new boot makes its row. A goodbye ends the lease at once.
///
/// # Errors
/// When the database cannot be reached or another process leads.
pub async fn renew(conn: &mut AsyncPgConnection, term: i64, renewal: &Renewal) -> Result<Renewed, StorageError> {
    write_as_leader!(conn, term, renew_once(conn, renewal))
}

async fn renew_once(conn: &AsyncPgConnection, renewal: &Renewal) -> Result<Renewed, StorageError> {
    let row: RenewedRow = sql("INSERT INTO executors (id, name, version, slots, draining, lease_until) \
         VALUES (?, ?, ?, ?, ?, now() + make_interval(secs => ?)) \
         ON CONFLICT (id) DO UPDATE SET draining = excluded.draining, slots = excluded.slots, lease_until = excluded.lease_until \
         RETURNING drain_requested")
    .bind::<SqlUuid, _>(renewal.executor_id.uuid())
    .bind::<Text, _>(renewal.name.clone())
    .bind::<Text, _>(renewal.version.clone())
    .bind::<Integer, _>(i32::try_from(renewal.slots).unwrap_or(i32::MAX))
    .bind::<Bool, _>(renewal.draining)
    .bind::<diesel::sql_types::Double, _>(if renewal.goodbye { 0.0 } else { lease_seconds() })
    .get_result(conn)
    .await?;
    Ok(Renewed { drain_requested: row.drain_requested })
}

fn lease_seconds() -> f64 {
    std::time::Duration::from_millis(protocol::claim::LEASE_MS).as_secs_f64()
}

/// Everything that is held, by whom: what a new leader starts from.
///
/// # Errors
/// When the database cannot be reached.
pub async fn holds(conn: &mut AsyncPgConnection) -> Result<Vec<(Loss, ExecutorId)>, StorageError> {
    let rows: Vec<HoldRow> =
        sql("SELECT id, epoch, executor_id FROM executions WHERE finished_at IS NULL AND executor_id IS NOT NULL")
            .load(conn)
            .await?;
    let hold = |row: HoldRow| {
        let loss = Loss { execution_id: ExecutionId::from_uuid(row.id), epoch: row.epoch };
        row.executor_id.map(|executor| (loss, ExecutorId::from_uuid(executor)))
    };
    Ok(rows.into_iter().filter_map(hold).collect())
}

#[derive(QueryableByName)]
struct IdRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

/// Which of `executors` have no living lease, by the database's clock. One without a row has none.
///
/// # Errors
/// When the database cannot be reached.
pub async fn lapsed(conn: &mut AsyncPgConnection, executors: &[ExecutorId]) -> Result<Vec<ExecutorId>, StorageError> {
    let rows: Vec<IdRow> = sql("SELECT w.id FROM unnest(?::uuid[]) AS w(id) LEFT JOIN executors e ON e.id = w.id \
                                WHERE e.lease_until IS NULL OR e.lease_until < now()")
    .bind::<Array<SqlUuid>, _>(executors.iter().map(|id| id.uuid()).collect::<Vec<_>>())
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(|row| ExecutorId::from_uuid(row.id)).collect())
}

/// Executors with a living lease, by the database's clock; at most 1,000.
///
/// # Errors
/// When the database cannot be reached.
pub async fn alive(conn: &mut AsyncPgConnection) -> Result<Vec<ExecutorId>, StorageError> {
    let rows: Vec<IdRow> =
        sql("SELECT id FROM executors WHERE lease_until > now() ORDER BY id LIMIT 1000").load(conn).await?;
    Ok(rows.into_iter().map(|row| ExecutorId::from_uuid(row.id)).collect())
}

/// Executors whose lease ended less than a minute ago or still lives, the longest running first.
///
/// # Errors
/// When the database cannot be reached.
pub async fn list(conn: &mut AsyncPgConnection) -> Result<Vec<ExecutorView>, StorageError> {
    let rows: Vec<ViewRow> = sql("SELECT x.id, x.name, x.version, x.slots, x.draining, x.started_at, x.lease_until, \
         COALESCE(r.running, 0) AS running FROM executors x LEFT JOIN (SELECT executor_id, count(*) AS running FROM executions \
         WHERE finished_at IS NULL AND executor_id IS NOT NULL GROUP BY executor_id) r ON r.executor_id = x.id WHERE x.lease_until > now() - interval '1 minute' ORDER BY x.started_at LIMIT 1000")
    .load(conn)
    .await?;
    let lease = chrono::Duration::milliseconds(i64::try_from(protocol::claim::LEASE_MS).unwrap_or(5_000));
    Ok(rows
        .into_iter()
        .map(|row| ExecutorView {
            executor_id: ExecutorId::from_uuid(row.id),
            name: row.name,
            version: row.version,
            slots: row.slots.unsigned_abs(),
            running: u32::try_from(row.running).unwrap_or(u32::MAX),
            draining: row.draining,
            started_at: row.started_at,
            seen_at: row.lease_until - lease,
        })
        .collect())
}

/// Removes boots that have been gone for an hour.
///
/// # Errors
/// When the database cannot be reached or another process leads.
pub async fn forget_old(conn: &mut AsyncPgConnection, term: i64) -> Result<usize, StorageError> {
    write_as_leader!(conn, term, async {
        let delete = sql("DELETE FROM executors x WHERE lease_until < now() - interval '1 hour' \
                          AND NOT EXISTS (SELECT FROM executions e WHERE e.finished_at IS NULL AND e.executor_id = x.id)");
        Ok(delete.execute(conn).await?)
    })
}

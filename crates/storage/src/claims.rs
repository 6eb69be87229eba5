//! Claims: an executor becomes the holder of an execution, with a new fencing number.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{Change, EngineId, ExecutionId, ExecutorId, State, UnitKey, UserId, VersionId};
use protocol::claim::{Claim, Grant};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    error::StorageError,
    events::{OpenUnits, open_units},
    leader::write_as_leader,
    ledger::{Entry, lock, save},
    sql::sql,
};

#[derive(QueryableByName)]
struct DetailRow {
    #[diesel(sql_type = SqlUuid)]
    execution_id: Uuid,
    #[diesel(sql_type = Text)]
    input: String,
    #[diesel(sql_type = Nullable<Text>)]
    traceparent: Option<String>,
}

#[derive(QueryableByName)]
struct UnitRow {
    #[diesel(sql_type = SqlUuid)]
    execution_id: Uuid,
    #[diesel(sql_type = Text)]
    node: String,
    #[diesel(sql_type = Integer)]
    unit: i32,
    #[diesel(sql_type = Bool)]
    complete: bool,
    #[diesel(sql_type = Timestamptz)]
    finished_at: DateTime<Utc>,
}

/// What the ledger keeps of one execution's units.
#[derive(Default)]
struct KnownUnits {
    complete: Vec<UnitKey>,
    finished_at: Option<DateTime<Utc>>,
}

/// Grants what is queued, and again what this very claim was granted before. The answers are in the order of the claims;
/// `None` is a refusal.
///
/// # Errors
/// When the database cannot be reached or another process leads.
pub async fn claim(
    conn: &mut AsyncPgConnection,
    term: i64,
    executor: ExecutorId,
    claims: &[Claim],
    now: DateTime<Utc>,
) -> Result<Vec<Option<Grant>>, StorageError> {
    write_as_leader!(conn, term, claim_once(conn, executor, claims, now))
}

async fn claim_once(
    conn: &mut AsyncPgConnection,
    executor: ExecutorId,
    claims: &[Claim],
    now: DateTime<Utc>,
) -> Result<Vec<Option<Grant>>, StorageError> {
    let mut entries = lock(conn, claims.iter().map(|claim| claim.execution_id.uuid()).collect()).await?;
    let wishes: HashMap<ExecutionId, Uuid> =
        claims.iter().map(|claim| (claim.execution_id, claim.claim_id.uuid())).collect();
    entries.retain_mut(|entry| {
        let Some(claim) = wishes.get(&entry.id).copied() else { return false };
        let again = entry.executor_id == Some(executor.uuid()) && entry.claim_id == Some(claim);
        again || grant(entry, executor, claim, now)
    });
    save(conn, &entries).await?;
    let ids: Vec<Uuid> = entries.iter().map(|entry| entry.id.uuid()).collect();
    let (mut details, mut units) = futures::try_join!(details(conn, ids.clone()), units(conn, ids))?;
    // Only an earlier attempt can have left text in the log.
    let resumed: Vec<Uuid> = entries.iter().filter(|entry| entry.epoch > 1).map(|entry| entry.id.uuid()).collect();
    let mut open = open_units(conn, &resumed).await?;
    let mut grants = HashMap::new();
    for entry in &entries {
        if let Some(detail) = details.remove(&entry.id.uuid()) {
            let found = units.remove(&entry.id.uuid()).unwrap_or_default();
            let shown = open.remove(&entry.id.uuid()).unwrap_or_default();
            grants.insert(entry.id, answer(entry, detail, found, &shown)?);
        }
    }
    Ok(claims.iter().map(|claim| grants.remove(&claim.execution_id)).collect())
}

/// Whether the execution may be had. What is not eligible yet is not queued for anybody.
fn grant(entry: &mut Entry, executor: ExecutorId, claim: Uuid, now: DateTime<Utc>) -> bool {
    let early = entry.eligible_at.is_some_and(|at| at > now);
    if early || entry.state != State::Queued || entry.change(Change::Claim, now).is_err() {
        return false;
    }
    entry.hand_over();
    entry.executor_id = Some(executor.uuid());
    entry.claim_id = Some(claim);
    entry.eligible_at = None;
    entry.started_at.get_or_insert(now);
    entry.claimed_at = Some(now);
    true
}

fn answer(entry: &Entry, detail: DetailRow, units: KnownUnits, shown: &OpenUnits) -> Result<Grant, StorageError> {
    let mut open: Vec<UnitKey> = shown.keys().filter(|key| !units.complete.contains(key)).cloned().collect();
    open.sort();
    Ok(Grant {
        execution_id: entry.id,
        epoch: entry.epoch,
        last_sequence: entry.last_sequence,
        user_id: UserId::from_uuid(entry.user_id),
        engine_id: EngineId::from_uuid(entry.engine_id),
        version_id: VersionId::from_uuid(entry.version_id),
        input: RawValue::from_string(detail.input).map_err(|error| StorageError::Corrupt(error.to_string()))?,
        deadline_at: entry.deadline_at,
        // Inherited units were finished before this execution began.
        progress_at: units.finished_at.max(entry.started_at),
        finished: units.complete,
        open,
        input_tokens: entry.input_tokens,
        output_tokens: entry.output_tokens,
        traceparent: detail.traceparent,
    })
}

async fn details(conn: &AsyncPgConnection, ids: Vec<Uuid>) -> Result<HashMap<Uuid, DetailRow>, StorageError> {
    let rows: Vec<DetailRow> =
        sql("SELECT execution_id, input, traceparent FROM execution_details WHERE execution_id = ANY(?)")
            .bind::<Array<SqlUuid>, _>(ids)
            .load(conn)
            .await?;
    Ok(rows.into_iter().map(|row| (row.execution_id, row)).collect())
}

async fn units(conn: &AsyncPgConnection, ids: Vec<Uuid>) -> Result<HashMap<Uuid, KnownUnits>, StorageError> {
    let rows: Vec<UnitRow> =
        sql("SELECT execution_id, node, unit, complete, finished_at FROM units WHERE execution_id = ANY(?) \
                                  ORDER BY execution_id, node, unit")
        .bind::<Array<SqlUuid>, _>(ids)
        .load(conn)
        .await?;
    let mut found: HashMap<Uuid, KnownUnits> = HashMap::new();
    for row in rows.into_iter().filter(|row| row.complete) {
        let known = found.entry(row.execution_id).or_default();
        known.complete.push(UnitKey { node: row.node, unit: row.unit });
        known.finished_at = known.finished_at.max(Some(row.finished_at));
    }
    Ok(found)
}

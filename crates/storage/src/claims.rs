//! Claims: an executor becomes the holder of an execution, with a new fencing number.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, Bool, Integer, Nullable, Text, Uuid as SqlUuid},
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
}

/// A claim with who makes it.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Who wants to hold it.
    pub executor: ExecutorId,
    /// What it wants.
    pub claim: Claim,
}

/// Why a claim is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Another claim was first.
    Held,
    /// It may not be released yet.
    Early,
    /// It is over, waits, or is not there.
    Gone,
}

/// Grants what is queued to one executor. The answers are in the order of the claims; `None` is a refusal.
///
/// # Errors
/// As [`claim_batch`].
pub async fn claim(
    conn: &mut AsyncPgConnection,
    term: i64,
    executor: ExecutorId,
    claims: &[Claim],
    now: DateTime<Utc>,
) -> Result<Vec<Option<Grant>>, StorageError> {
    let asked: Vec<Asked> = claims.iter().map(|claim| Asked { executor, claim: *claim }).collect();
    Ok(claim_batch(conn, term, &asked, now).await?.into_iter().map(Result::ok).collect())
}

/// Grants what is queued, and again what this very claim was granted before, in one transaction. The answers are in the
/// order of the claims; of two claims to the same execution the first gets it.
///
/// # Errors
/// When the database cannot be reached or another process leads.
pub async fn claim_batch(
    conn: &mut AsyncPgConnection,
    term: i64,
    claims: &[Asked],
    now: DateTime<Utc>,
) -> Result<Vec<Result<Grant, Refusal>>, StorageError> {
    write_as_leader!(conn, term, claim_once(conn, claims, now))
}

async fn claim_once(
    conn: &AsyncPgConnection,
    claims: &[Asked],
    now: DateTime<Utc>,
) -> Result<Vec<Result<Grant, Refusal>>, StorageError> {
    let ids: Vec<Uuid> = claims.iter().map(|asked| asked.claim.execution_id.uuid()).collect();
    // The submission's details never change: no lock has to come before them.
    let (mut entries, mut details) = futures::try_join!(lock(conn, ids.clone()), details(conn, ids))?;
    let places: HashMap<ExecutionId, usize> = entries.iter().enumerate().map(|(at, entry)| (entry.id, at)).collect();
    let mut verdicts = Vec::with_capacity(claims.len());
    for asked in claims {
        let entry = places.get(&asked.claim.execution_id).and_then(|at| entries.get_mut(*at));
        verdicts.push(entry.map_or(Err(Refusal::Gone), |entry| grant(entry, asked, now)));
    }
    // The same claim twice, when its answer was late, gets the same answer twice.
    let mut granted: HashMap<ExecutionId, usize> = HashMap::new();
    for (asked, _) in claims.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok()) {
        *granted.entry(asked.claim.execution_id).or_default() += 1;
    }
    entries.retain(|entry| granted.contains_key(&entry.id));
    let ids: Vec<Uuid> = entries.iter().map(|entry| entry.id.uuid()).collect();
    // Only an earlier attempt can have left text in the log.
    let resumed: Vec<Uuid> = entries.iter().filter(|entry| entry.epoch > 1).map(|entry| entry.id.uuid()).collect();
    let ((), mut units, mut open) =
        futures::try_join!(save(conn, &entries), units(conn, ids), open_units(conn, &resumed))?;
    let mut grants = HashMap::new();
    for entry in &entries {
        if let Some(detail) = details.remove(&entry.id.uuid()) {
            let found = units.remove(&entry.id.uuid()).unwrap_or_default();
            let shown = open.remove(&entry.id.uuid()).unwrap_or_default();
            grants.insert(entry.id, answer(entry, detail, found, &shown)?);
        }
    }
    let mut hand_out = |id: ExecutionId| {
        let left = granted.get_mut(&id).map_or(0, |left| {
            *left -= 1;
            *left
        });
        let grant = if left == 0 { grants.remove(&id) } else { grants.get(&id).cloned() };
        grant.ok_or(Refusal::Gone)
    };
    Ok(claims
        .iter()
        .zip(verdicts)
        .map(|(asked, said)| said.and_then(|()| hand_out(asked.claim.execution_id)))
        .collect())
}

/// Makes the claimant the holder, or says why not. What is not eligible yet is not queued for anybody.
fn grant(entry: &mut Entry, asked: &Asked, now: DateTime<Utc>) -> Result<(), Refusal> {
    let (executor, claim) = (asked.executor.uuid(), asked.claim.claim_id.uuid());
    if entry.executor_id == Some(executor) && entry.claim_id == Some(claim) {
        return Ok(());
    }
    if entry.state.is_held() {
        return Err(Refusal::Held);
    }
    if entry.state != State::Queued {
        return Err(Refusal::Gone);
    }
    if entry.eligible_at.is_some_and(|at| at > now) {
        return Err(Refusal::Early);
    }
    entry.change(Change::Claim, now).map_err(|_illegal| Refusal::Gone)?;
    entry.take_epoch();
    entry.executor_id = Some(executor);
    entry.claim_id = Some(claim);
    entry.eligible_at = None;
    entry.started_at.get_or_insert(now);
    entry.claimed_at = Some(now);
    Ok(())
}

fn answer(
    entry: &Entry,
    detail: DetailRow,
    units: Vec<(UnitKey, bool)>,
    shown: &OpenUnits,
) -> Result<Grant, StorageError> {
    let complete = |key: &UnitKey| units.iter().any(|(known, complete)| *complete && known == key);
    let mut open: Vec<UnitKey> = shown.keys().filter(|key| !complete(key)).cloned().collect();
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
        finished: units.iter().filter(|(_, complete)| *complete).map(|(key, _)| key.clone()).collect(),
        open,
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

async fn units(conn: &AsyncPgConnection, ids: Vec<Uuid>) -> Result<HashMap<Uuid, Vec<(UnitKey, bool)>>, StorageError> {
    let rows: Vec<UnitRow> = sql("SELECT execution_id, node, unit, complete FROM units WHERE execution_id = ANY(?) \
                                  ORDER BY execution_id, node, unit")
    .bind::<Array<SqlUuid>, _>(ids)
    .load(conn)
    .await?;
    let mut found: HashMap<Uuid, Vec<(UnitKey, bool)>> = HashMap::new();
    for row in rows {
        found.entry(row.execution_id).or_default().push((UnitKey { node: row.node, unit: row.unit }, row.complete));
    }
    Ok(found)
}

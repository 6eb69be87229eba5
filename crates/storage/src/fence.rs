//! Taking executions back from executors that are lost, and keeping what they had already shown.

use chrono::{DateTime, Duration, Utc};
use diesel::sql_types::{Array, BigInt, Integer, SmallInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::AsyncPgConnection;
use domain::{Change, EventBody, EventRecord, ExecutionId, Failure, FailureCode, State, UnitKey};
use protocol::report::{CallOutcome, UsageSource};
use uuid::Uuid;

use crate::{
    error::StorageError,
    events::open_units,
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
    write_as_leader!(conn, term, take_back_once(conn, losses, now))
}

async fn take_back_once(
    conn: &mut AsyncPgConnection,
    losses: &[Loss],
    now: DateTime<Utc>,
) -> Result<Vec<TakenBack>, StorageError> {
    let mut entries = lock(conn, losses.iter().map(|loss| loss.execution_id.uuid()).collect()).await?;
    entries.retain(|entry| {
        let epoch = losses.iter().find(|loss| loss.execution_id == entry.id).map(|loss| loss.epoch);
        entry.state.is_held() && Some(entry.epoch) == epoch
    });
    keep_what_was_shown(conn, &entries, now).await?;
    let mut failed = Vec::new();
    for entry in &mut entries {
        if let Some(failure) = lose(entry, now)? {
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
    conn: &mut AsyncPgConnection,
    failed: &[(ExecutionId, Failure)],
) -> Result<(), StorageError> {
    for (id, failure) in failed {
        let failure = serde_json::to_value(failure).map_err(|error| StorageError::Corrupt(error.to_string()))?;
        sql("INSERT INTO execution_results (execution_id, failure) VALUES (?, ?)")
            .bind::<SqlUuid, _>(id.uuid())
            .bind::<diesel::sql_types::Jsonb, _>(failure)
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Keeps the text that the lost holders had shown as partial units, and enters the calls that were open when they were lost:
/// their tokens were paid, and nobody else will report them.
pub(crate) async fn keep_what_was_shown(
    conn: &mut AsyncPgConnection,
    entries: &[Entry],
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let ids: Vec<Uuid> = entries.iter().map(|entry| entry.id.uuid()).collect();
    let mut shown = open_units(conn, &ids).await?;
    let mut kept: Vec<(&Entry, UnitKey, String)> = Vec::new();
    for entry in entries {
        for (key, text) in shown.remove(&entry.id.uuid()).unwrap_or_default() {
            kept.push((entry, key, text));
        }
    }
    if kept.is_empty() {
        return Ok(());
    }
    let outputs: Vec<String> =
        kept.iter().map(|(_, _, text)| serde_json::Value::String(text.clone()).to_string()).collect();
    // What is complete stays as it is, and its call was reported with it.
    sql("WITH n AS (SELECT * FROM unnest(?::uuid[], ?::integer[], ?::text[], ?::integer[], ?::text[], ?::uuid[], ?::bigint[]) \
         AS n(execution_id, epoch, node, unit, output, call_id, tokens)), \
         o AS (SELECT n.* FROM n LEFT JOIN units u USING (execution_id, node, unit) WHERE u.complete IS NOT TRUE), \
         k AS (INSERT INTO units (execution_id, node, unit, epoch, complete, output) \
         SELECT execution_id, node, unit, epoch, false, output FROM o \
         ON CONFLICT (execution_id, node, unit) DO UPDATE SET output = excluded.output, epoch = excluded.epoch WHERE NOT units.complete) \
         INSERT INTO usage_calls (call_id, execution_id, epoch, node, unit, user_id, engine_id, version_id, model, source, outcome, \
         output_tokens, started_at, ended_at) SELECT o.call_id, e.id, o.epoch, o.node, o.unit, e.user_id, e.engine_id, e.version_id, \
         'unknown', ?, ?, o.tokens, ?::timestamptz, ?::timestamptz FROM o JOIN executions e ON e.id = o.execution_id ON CONFLICT DO NOTHING")
    .bind::<Array<SqlUuid>, _>(kept.iter().map(|(entry, _, _)| entry.id.uuid()).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(kept.iter().map(|(entry, _, _)| entry.epoch).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(kept.iter().map(|(_, key, _)| key.node.clone()).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(kept.iter().map(|(_, key, _)| key.unit).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(outputs)
    .bind::<Array<SqlUuid>, _>(kept.iter().map(|(entry, key, _)| lost_call(entry, key)).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(kept.iter().map(|(_, _, text)| estimate(text)).collect::<Vec<_>>())
    .bind::<SmallInt, _>(UsageSource::Lost as i16)
    .bind::<SmallInt, _>(CallOutcome::Aborted as i16)
    .bind::<Timestamptz, _>(now)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// A call id that is the same however often the loss is written.
fn lost_call(entry: &Entry, key: &UnitKey) -> Uuid {
    let name = format!("{}/{}/{key}", entry.id, entry.epoch);
    let mut bytes = [0_u8; 16];
    for (place, byte) in name.bytes().enumerate() {
        // FNV-1a over two halves: an id, not a secret.
        let half = (place % 2) * 8;
        let mut hash =
            u64::from_be_bytes(bytes.get(half..half + 8).and_then(|b| b.try_into().ok()).unwrap_or_default());
        hash = (hash ^ u64::from(byte) ^ 0xcbf2_9ce4_8422_2325).wrapping_mul(0x0100_0000_01b3);
        if let Some(slot) = bytes.get_mut(half..half + 8) {
            slot.copy_from_slice(&hash.to_be_bytes());
        }
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Characters divided by four (`docs/providers.md` 7.1).
fn estimate(text: &str) -> i64 {
    i64::try_from(text.chars().count().div_ceil(4)).unwrap_or(i64::MAX)
}

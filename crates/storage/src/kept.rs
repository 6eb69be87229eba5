//! What is kept of an attempt that ended without a report: the text it had shown, and the tokens that were paid for it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Integer, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{ExecutionId, UnitKey};
use protocol::report::{CallOutcome, UsageSource};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    error::StorageError,
    events::{Shown, open_units},
    ledger::Entry,
    sql::{Sql, sql},
};

#[derive(QueryableByName)]
struct LostRow {
    #[diesel(sql_type = SqlUuid)]
    execution_id: Uuid,
    #[diesel(sql_type = Nullable<BigInt>)]
    output_tokens: Option<i64>,
}

#[derive(QueryableByName)]
struct FlowRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    flow: String,
}

/// One unit without an end that has text in the log.
struct Kept {
    execution_id: ExecutionId,
    key: UnitKey,
    shown: Shown,
    /// Whether its call was open until now, so that nobody else will report it.
    lost: bool,
}

/// Keeps the shown text of open units as partial units, and enters the calls that were open when their executor was lost. Called
/// before the entries change: their epoch is still that of the attempt.
pub(crate) async fn keep_what_was_shown(
    conn: &AsyncPgConnection,
    entries: &mut [Entry],
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    // Before the first claim nobody writes text.
    let ids: Vec<Uuid> = entries.iter().filter(|entry| entry.epoch > 0).map(|entry| entry.id.uuid()).collect();
    let mut open = open_units(conn, &ids).await?;
    let mut kept = Vec::new();
    for entry in &*entries {
        for (key, shown) in open.remove(&entry.id.uuid()).unwrap_or_default() {
            let lost = entry.state.is_held() && shown.epoch == entry.epoch;
            kept.push(Kept { execution_id: entry.id, key, shown, lost });
        }
    }
    if kept.is_empty() {
        return Ok(());
    }
    let models = models(conn, entries, &kept).await?;
    let lost: Vec<LostRow> = keep(&kept, &models, now).load(conn).await?;
    for row in lost {
        let entry = entries.iter_mut().find(|entry| entry.id.uuid() == row.execution_id);
        if let Some(entry) = entry {
            entry.output_tokens += row.output_tokens.unwrap_or(0);
            entry.touch();
        }
    }
    Ok(())
}

/// The model of each kept unit's node, as its flow names it; `unknown` where that cannot be told.
async fn models(conn: &AsyncPgConnection, entries: &[Entry], kept: &[Kept]) -> Result<Vec<String>, StorageError> {
    let versions: HashMap<ExecutionId, Uuid> = entries.iter().map(|entry| (entry.id, entry.version_id)).collect();
    let mut wanted: Vec<Uuid> =
        kept.iter().filter(|one| one.lost).filter_map(|one| versions.get(&one.execution_id).copied()).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let rows: Vec<FlowRow> = if wanted.is_empty() {
        Vec::new()
    } else {
        sql("SELECT id, flow FROM engine_versions WHERE id = ANY(?)")
            .bind::<Array<SqlUuid>, _>(wanted)
            .load(conn)
            .await?
    };
    // What cannot be read is no reason to leave an execution with its lost executor.
    let flows: HashMap<Uuid, serde_json::Value> =
        rows.into_iter().filter_map(|row| Some((row.id, serde_json::from_str(&row.flow).ok()?))).collect();
    let model = |one: &Kept| {
        let flow = flows.get(versions.get(&one.execution_id)?)?;
        domain::flow::model_of(flow, &one.key.node).map(str::to_owned)
    };
    Ok(kept.iter().map(|one| model(one).unwrap_or_else(|| "unknown".to_owned())).collect())
}

/// What is complete stays as it is, and what the executor itself kept is better than what we rebuild. A call that ended well has
/// its row already.
fn keep(kept: &[Kept], models: &[String], now: DateTime<Utc>) -> Sql {
    fn column<T>(kept: &[Kept], value: impl Fn(&Kept) -> T) -> Vec<T> {
        kept.iter().map(value).collect()
    }
    sql("WITH n AS (SELECT * FROM unnest(?::uuid[], ?::integer[], ?::text[], ?::integer[], ?::text[], ?::uuid[], ?::bigint[], ?::text[]) \
         AS n(execution_id, epoch, node, unit, output, call_id, tokens, model)), \
         o AS (SELECT n.* FROM n LEFT JOIN units u USING (execution_id, node, unit) WHERE u.complete IS NOT TRUE), \
         k AS (INSERT INTO units (execution_id, node, unit, epoch, complete, output) \
         SELECT execution_id, node, unit, epoch, false, output FROM o \
         ON CONFLICT (execution_id, node, unit) DO UPDATE SET output = excluded.output, epoch = excluded.epoch \
         WHERE NOT units.complete AND units.epoch < excluded.epoch) \
         INSERT INTO usage_calls (call_id, execution_id, epoch, node, unit, user_id, engine_id, version_id, model, source, outcome, \
         output_tokens, started_at, ended_at) SELECT o.call_id, e.id, o.epoch, o.node, o.unit, e.user_id, e.engine_id, e.version_id, \
         o.model, ?, ?, o.tokens, ?::timestamptz, ?::timestamptz FROM o JOIN executions e ON e.id = o.execution_id \
         WHERE o.tokens IS NOT NULL AND NOT EXISTS (SELECT FROM usage_calls c WHERE c.execution_id = o.execution_id \
         AND c.epoch = o.epoch AND c.node = o.node AND c.unit = o.unit AND c.outcome = ?) \
         ON CONFLICT DO NOTHING RETURNING execution_id, output_tokens")
    .bind::<Array<SqlUuid>, _>(column(kept, |one| one.execution_id.uuid()))
    .bind::<Array<Integer>, _>(column(kept, |one| one.shown.epoch))
    .bind::<Array<Text>, _>(column(kept, |one| one.key.node.clone()))
    .bind::<Array<Integer>, _>(column(kept, |one| one.key.unit))
    .bind::<Array<Text>, _>(column(kept, |one| serde_json::Value::String(one.shown.text.clone()).to_string()))
    .bind::<Array<SqlUuid>, _>(column(kept, lost_call))
    .bind::<Array<Nullable<BigInt>>, _>(column(kept, |one| one.lost.then(|| estimate(&one.shown.text))))
    .bind::<Array<Text>, _>(models.to_vec())
    .bind::<SmallInt, _>(UsageSource::Lost as i16)
    .bind::<SmallInt, _>(CallOutcome::Aborted as i16)
    .bind::<Timestamptz, _>(now)
    .bind::<Timestamptz, _>(now)
    .bind::<SmallInt, _>(CallOutcome::Completed as i16)
}

/// A call id that is the same however often the loss is written.
fn lost_call(kept: &Kept) -> Uuid {
    let digest = Sha256::digest(format!("lost/{}/{}/{}", kept.execution_id, kept.shown.epoch, kept.key));
    let mut bytes = [0_u8; 16];
    for (to, from) in bytes.iter_mut().zip(digest) {
        *to = from;
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Characters divided by four (`docs/providers.md` 7.1).
fn estimate(text: &str) -> i64 {
    i64::try_from(text.chars().count().div_ceil(4)).unwrap_or(i64::MAX)
}

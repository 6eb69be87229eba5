//! What is kept of an attempt that ended without a report: the text it had shown, and the tokens that were paid for it.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Integer, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{ExecutionId, UnitKey};
use protocol::report::{CallOutcome, UsageSource};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    error::StorageError,
    events::{Log, Shown, logs},
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

#[derive(QueryableByName)]
struct UnitRow {
    #[diesel(sql_type = SqlUuid)]
    execution_id: Uuid,
    #[diesel(sql_type = Text)]
    node: String,
    #[diesel(sql_type = Integer)]
    unit: i32,
}

/// One unit without an end that has text in the log, or whose call had shown none.
struct Kept {
    execution_id: ExecutionId,
    version_id: Uuid,
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
    let mut logs = logs(conn, &ids).await?;
    let flows = flows(conn, entries, &logs).await?;
    let mut kept = silent_calls(conn, entries, &logs, &flows).await?;
    for entry in &*entries {
        let log = logs.remove(&entry.id.uuid()).unwrap_or_default();
        for (key, shown) in log.units {
            let lost = entry.state.is_held() && shown.epoch == entry.epoch;
            kept.push(Kept { execution_id: entry.id, version_id: entry.version_id, key, shown, lost });
        }
    }
    if kept.is_empty() {
        return Ok(());
    }
    let lost: Vec<LostRow> = keep(&kept, &flows, now).load(conn).await?;
    for row in lost {
        let entry = entries.iter_mut().find(|entry| entry.id.uuid() == row.execution_id);
        if let Some(entry) = entry {
            entry.output_tokens += row.output_tokens.unwrap_or(0);
            entry.touch();
        }
    }
    Ok(())
}

/// Whether it has begun a node in its present attempt.
fn is_open(entry: &Entry, logs: &HashMap<Uuid, Log>) -> bool {
    let log = logs.get(&entry.id.uuid());
    entry.state.is_held() && log.is_some_and(|log| log.begun.values().any(|epoch| *epoch == entry.epoch))
}

/// The flows of executions whose calls may be lost. What cannot be read is no reason to leave an execution with its lost
/// executor: then nothing is known of its calls.
async fn flows(
    conn: &AsyncPgConnection,
    entries: &[Entry],
    logs: &HashMap<Uuid, Log>,
) -> Result<HashMap<Uuid, Value>, StorageError> {
    let shows = |entry: &Entry| {
        logs.get(&entry.id.uuid()).is_some_and(|log| log.units.values().any(|shown| shown.epoch == entry.epoch))
    };
    let may_be_lost = |entry: &&Entry| entry.state.is_held() && (is_open(entry, logs) || shows(entry));
    let mut versions: Vec<Uuid> = entries.iter().filter(may_be_lost).map(|entry| entry.version_id).collect();
    versions.sort_unstable();
    versions.dedup();
    if versions.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<FlowRow> = sql("SELECT id, flow FROM engine_versions WHERE id = ANY(?)")
        .bind::<Array<SqlUuid>, _>(versions)
        .load(conn)
        .await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.id, serde_json::from_str(&row.flow).ok()?))).collect())
}

/// The calls of this attempt that had shown no text yet: of each open node that makes calls, the first unit that is not done. Their
/// price is not known, but they were made.
async fn silent_calls(
    conn: &AsyncPgConnection,
    entries: &[Entry],
    logs: &HashMap<Uuid, Log>,
    flows: &HashMap<Uuid, Value>,
) -> Result<Vec<Kept>, StorageError> {
    let entries: Vec<&Entry> = entries.iter().filter(|entry| is_open(entry, logs)).collect();
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let finished = finished(conn, entries.iter().map(|entry| entry.id.uuid()).collect()).await?;
    let mut silent = Vec::new();
    for entry in entries {
        let id = entry.id.uuid();
        let (Some(log), Some(flow)) = (logs.get(&id), flows.get(&entry.version_id)) else { continue };
        let callers = callers(flow);
        let begun = log.begun.iter().filter(|(node, epoch)| **epoch == entry.epoch && callers.contains(node.as_str()));
        for (node, _) in begun {
            let done = |unit: &i32| finished.contains(&(id, node.clone(), *unit));
            let unit = (0..).find(|unit| !done(unit)).unwrap_or_default();
            let key = UnitKey { node: node.clone(), unit };
            if log.units.get(&key).is_none_or(|shown| shown.epoch != entry.epoch) {
                let shown = Shown { text: String::new(), epoch: entry.epoch };
                silent.push(Kept { execution_id: entry.id, version_id: entry.version_id, key, shown, lost: true });
            }
        }
    }
    Ok(silent)
}

/// The nodes of a flow that make model calls.
fn callers(flow: &Value) -> HashSet<&str> {
    flow.get("nodes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|node| matches!(node.get("type").and_then(Value::as_str), Some("generate" | "chapters")))
        .filter_map(|node| node.get("id").and_then(Value::as_str))
        .collect()
}

/// The model of a kept unit's node, as its flow names it; `unknown` where that cannot be told.
fn model(kept: &Kept, flows: &HashMap<Uuid, Value>) -> String {
    let model = flows.get(&kept.version_id).and_then(|flow| domain::flow::model_of(flow, &kept.key.node));
    model.unwrap_or("unknown").to_owned()
}

async fn finished(
    conn: &AsyncPgConnection,
    executions: Vec<Uuid>,
) -> Result<HashSet<(Uuid, String, i32)>, StorageError> {
    let rows: Vec<UnitRow> = sql("SELECT execution_id, node, unit FROM units WHERE execution_id = ANY(?) AND complete")
        .bind::<Array<SqlUuid>, _>(executions)
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|row| (row.execution_id, row.node, row.unit)).collect())
}

/// What is complete stays as it is, and what the executor itself kept is better than what we rebuild. A call that ended well has
/// its row already.
fn keep(kept: &[Kept], flows: &HashMap<Uuid, Value>, now: DateTime<Utc>) -> Sql {
    fn column<T>(kept: &[Kept], value: impl Fn(&Kept) -> T) -> Vec<T> {
        kept.iter().map(value).collect()
    }
    sql("WITH n AS (SELECT * FROM unnest(?::uuid[], ?::integer[], ?::text[], ?::integer[], ?::text[], ?::uuid[], ?::bigint[], ?::text[]) \
         AS n(execution_id, epoch, node, unit, output, call_id, tokens, model)), \
         o AS (SELECT n.* FROM n LEFT JOIN units u USING (execution_id, node, unit) WHERE u.complete IS NOT TRUE), \
         k AS (INSERT INTO units (execution_id, node, unit, epoch, complete, output) \
         SELECT execution_id, node, unit, epoch, false, output FROM o WHERE output <> '\"\"' \
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
    .bind::<Array<Text>, _>(column(kept, |one| Value::String(one.shown.text.clone()).to_string()))
    .bind::<Array<SqlUuid>, _>(column(kept, lost_call))
    .bind::<Array<Nullable<BigInt>>, _>(column(kept, |one| one.lost.then(|| estimate(&one.shown.text))))
    .bind::<Array<Text>, _>(column(kept, |one| model(one, flows)))
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

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
    let mut kept = silent_calls(conn, entries, &logs).await?;
    for entry in &*entries {
        let log = logs.remove(&entry.id.uuid()).unwrap_or_default();
        for (key, shown) in log.units {
            let lost = entry.state.is_held() && shown.epoch == entry.epoch;
            kept.push(Kept { execution_id: entry.id, key, shown, lost });
        }
    }
    if kept.is_empty() {
        return Ok(());
    }
    let lost: Vec<LostRow> = keep(&kept, now).load(conn).await?;
    for row in lost {
        let entry = entries.iter_mut().find(|entry| entry.id.uuid() == row.execution_id);
        if let Some(entry) = entry {
            entry.output_tokens += row.output_tokens.unwrap_or(0);
            entry.touch();
        }
    }
    Ok(())
}

/// The calls of this attempt that had shown no text yet: of each open node that makes calls, the first unit that is not done. Their
/// price is not known, but they were made.
async fn silent_calls(
    conn: &AsyncPgConnection,
    entries: &[Entry],
    logs: &HashMap<Uuid, Log>,
) -> Result<Vec<Kept>, StorageError> {
    let began = |entry: &&Entry| {
        let log = logs.get(&entry.id.uuid());
        entry.state.is_held() && log.is_some_and(|log| log.begun.values().any(|epoch| *epoch == entry.epoch))
    };
    let entries: Vec<&Entry> = entries.iter().filter(began).collect();
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let versions = callers(conn, entries.iter().map(|entry| entry.version_id).collect());
    let units = finished(conn, entries.iter().map(|entry| entry.id.uuid()).collect());
    let (callers, finished) = futures::try_join!(versions, units)?;
    let mut silent = Vec::new();
    for entry in entries {
        let id = entry.id.uuid();
        let (Some(log), Some(callers)) = (logs.get(&id), callers.get(&entry.version_id)) else { continue };
        let begun = log.begun.iter().filter(|(node, epoch)| **epoch == entry.epoch && callers.contains(*node));
        for (node, _) in begun {
            let done = |unit: &i32| finished.contains(&(id, node.clone(), *unit));
            let unit = (0..).find(|unit| !done(unit)).unwrap_or_default();
            let key = UnitKey { node: node.clone(), unit };
            if log.units.get(&key).is_none_or(|shown| shown.epoch != entry.epoch) {
                let shown = Shown { text: String::new(), epoch: entry.epoch };
                silent.push(Kept { execution_id: entry.id, key, shown, lost: true });
            }
        }
    }
    Ok(silent)
}

/// The nodes of engine versions that make model calls.
async fn callers(
    conn: &AsyncPgConnection,
    versions: Vec<Uuid>,
) -> Result<HashMap<Uuid, HashSet<String>>, StorageError> {
    #[derive(serde::Deserialize)]
    struct Flow {
        nodes: Vec<Node>,
    }
    #[derive(serde::Deserialize)]
    struct Node {
        id: String,
        #[serde(rename = "type")]
        kind: String,
    }
    let rows: Vec<FlowRow> = sql("SELECT id, flow FROM engine_versions WHERE id = ANY(?)")
        .bind::<Array<SqlUuid>, _>(versions)
        .load(conn)
        .await?;
    let calls = |node: &Node| matches!(node.kind.as_str(), "generate" | "chapters");
    let nodes = |row: FlowRow| {
        // A flow of another release: nothing is known of its calls.
        let flow: Flow = serde_json::from_str(&row.flow).ok()?;
        Some((row.id, flow.nodes.into_iter().filter(calls).map(|node| node.id).collect()))
    };
    Ok(rows.into_iter().filter_map(nodes).collect())
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
fn keep(kept: &[Kept], now: DateTime<Utc>) -> Sql {
    fn column<T>(kept: &[Kept], value: impl Fn(&Kept) -> T) -> Vec<T> {
        kept.iter().map(value).collect()
    }
    sql("WITH n AS (SELECT * FROM unnest(?::uuid[], ?::integer[], ?::text[], ?::integer[], ?::text[], ?::uuid[], ?::bigint[]) \
         AS n(execution_id, epoch, node, unit, output, call_id, tokens)), \
         o AS (SELECT n.* FROM n LEFT JOIN units u USING (execution_id, node, unit) WHERE u.complete IS NOT TRUE), \
         k AS (INSERT INTO units (execution_id, node, unit, epoch, complete, output) \
         SELECT execution_id, node, unit, epoch, false, output FROM o WHERE output <> '\"\"' \
         ON CONFLICT (execution_id, node, unit) DO UPDATE SET output = excluded.output, epoch = excluded.epoch \
         WHERE NOT units.complete AND units.epoch < excluded.epoch) \
         INSERT INTO usage_calls (call_id, execution_id, epoch, node, unit, user_id, engine_id, version_id, model, source, outcome, \
         output_tokens, started_at, ended_at) SELECT o.call_id, e.id, o.epoch, o.node, o.unit, e.user_id, e.engine_id, e.version_id, \
         'unknown', ?, ?, o.tokens, ?::timestamptz, ?::timestamptz FROM o JOIN executions e ON e.id = o.execution_id \
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

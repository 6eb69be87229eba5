//! The event log: pages for replays, tails for streams that fell silent, and what of a unit's text is shown.

use std::collections::{BTreeMap, HashMap};

use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Bool, Integer, Text, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{EventBody, EventRecord, ExecutionId, Sequence, UnitKey};
use protocol::live::LiveExecution;
use protocol::read::EventPage;
use uuid::Uuid;

use crate::{error::StorageError, sql::sql};

/// At most this many chunks are read for one page or one tail.
const CHUNKS: i32 = 500;
/// At most about this many bytes are read for one page, or for all tails of one request. The first chunk always is.
const BYTES: i64 = 4 << 20;
/// At most this many events of one silent stream are sent at once.
const TAIL: usize = 200;

/// Text that is in the log, by unit.
pub(crate) type OpenUnits = BTreeMap<UnitKey, Shown>;

/// What the log says of one execution.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Text, by unit.
    pub(crate) units: OpenUnits,
    /// Nodes that have begun and are not done, with the attempt that began them.
    pub(crate) begun: BTreeMap<String, i32>,
}

/// The text of one unit, as a client that applied every event has it.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) text: String,
    /// The attempt that wrote it: each attempt begins its units anew.
    pub(crate) epoch: i32,
}

#[derive(QueryableByName)]
struct EndRow {
    #[diesel(sql_type = Bool)]
    ended: bool,
    #[diesel(sql_type = BigInt)]
    last_sequence: i64,
}

#[derive(QueryableByName)]
struct ChunkRow {
    #[diesel(sql_type = SqlUuid)]
    execution_id: Uuid,
    #[diesel(sql_type = Text)]
    records: String,
}

/// The events of `execution` after `after`, at most `limit`. The caller has checked whose it is.
///
/// # Errors
/// When the database cannot be reached.
pub async fn page(
    conn: &mut AsyncPgConnection,
    execution: ExecutionId,
    after: Sequence,
    limit: usize,
) -> Result<EventPage, StorageError> {
    // Every chunk has an event at least.
    let chunks = i32::try_from(limit).map_or(CHUNKS, |limit| limit.saturating_add(1).min(CHUNKS));
    let rows: Vec<ChunkRow> = sql("SELECT execution_id, records FROM (SELECT execution_id, first_sequence, records, \
             sum(octet_length(records)) OVER (ORDER BY first_sequence) - octet_length(records) AS before \
             FROM events WHERE execution_id = ? AND last_sequence > ? ORDER BY first_sequence LIMIT ?) v \
             WHERE before < ? ORDER BY first_sequence")
    .bind::<SqlUuid, _>(execution.uuid())
    .bind::<BigInt, _>(after.0)
    .bind::<Integer, _>(chunks)
    .bind::<BigInt, _>(BYTES)
    .load(conn)
    .await?;
    let bytes: usize = rows.iter().map(|row| row.records.len()).sum();
    let full =
        rows.len() == usize::try_from(chunks).unwrap_or(usize::MAX) || i64::try_from(bytes).is_ok_and(|b| b >= BYTES);
    let mut events = Vec::new();
    for row in rows {
        events.extend(read(&row.records)?.into_iter().filter(|record| record.sequence > after));
    }
    let more = full || events.len() > limit;
    events.truncate(limit);
    let (terminal, last) = match events.last() {
        Some(last) => (!more && last.is_terminal(), None),
        None => end(conn, execution, after).await?,
    };
    Ok(EventPage { events, more, terminal, last })
}

/// Whether nothing will ever follow `after`, and the last event that is stored.
async fn end(
    conn: &AsyncPgConnection,
    execution: ExecutionId,
    after: Sequence,
) -> Result<(bool, Option<Sequence>), StorageError> {
    let rows: Vec<EndRow> = sql(
        "SELECT finished_at IS NOT NULL AND last_sequence <= ? AS ended, last_sequence FROM executions WHERE id = ?",
    )
    .bind::<BigInt, _>(after.0)
    .bind::<SqlUuid, _>(execution.uuid())
    .load(conn)
    .await?;
    let row = rows.first();
    Ok((row.is_some_and(|row| row.ended), row.map(|row| Sequence(row.last_sequence))))
}

/// What each of many streams missed.
///
/// # Errors
/// When the database cannot be reached.
pub async fn tails(
    conn: &mut AsyncPgConnection,
    streams: &[(ExecutionId, Sequence)],
) -> Result<Vec<LiveExecution>, StorageError> {
    let ids: Vec<Uuid> = streams.iter().map(|(id, _)| id.uuid()).collect();
    let lasts: Vec<i64> = streams.iter().map(|(_, last)| last.0).collect();
    // `executions.last_sequence` tells in one cheap look-up which streams missed something at all.
    let rows: Vec<ChunkRow> =
        sql("SELECT execution_id, records FROM (SELECT v.*, sum(octet_length(v.records)) \
         OVER (ORDER BY v.execution_id, v.first_sequence) - octet_length(v.records) AS before \
         FROM unnest(?::uuid[], ?::bigint[]) AS s(id, last) JOIN executions e ON e.id = s.id AND e.last_sequence > s.last \
         CROSS JOIN LATERAL (SELECT execution_id, first_sequence, records FROM events WHERE execution_id = s.id \
         AND last_sequence > s.last ORDER BY first_sequence LIMIT 50) v) t WHERE before < ? ORDER BY execution_id, first_sequence")
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<BigInt>, _>(lasts)
        .bind::<BigInt, _>(BYTES)
        .load(conn)
        .await?;
    let after: HashMap<Uuid, Sequence> = streams.iter().map(|(id, last)| (id.uuid(), *last)).collect();
    let mut found: Vec<LiveExecution> = Vec::new();
    for row in rows {
        let execution_id = ExecutionId::from_uuid(row.execution_id);
        if found.last().is_none_or(|live| live.execution_id != execution_id) {
            found.push(LiveExecution { execution_id, events: Vec::new() });
        }
        let Some(live) = found.last_mut() else { continue };
        let start = after.get(&row.execution_id).copied().unwrap_or_default();
        let room = TAIL.saturating_sub(live.events.len());
        live.events.extend(read(&row.records)?.into_iter().filter(|record| record.sequence > start).take(room));
    }
    Ok(found)
}

/// The text in the log of every unit that has some, after resets. Whoever asks leaves out the finished units.
pub(crate) async fn open_units(
    conn: &AsyncPgConnection,
    executions: &[Uuid],
) -> Result<HashMap<Uuid, OpenUnits>, StorageError> {
    let logs = logs(conn, executions).await?;
    Ok(logs.into_iter().map(|(id, log)| (id, log.units)).collect())
}

/// What the logs of `executions` say of units and nodes that are not done.
pub(crate) async fn logs(conn: &AsyncPgConnection, executions: &[Uuid]) -> Result<HashMap<Uuid, Log>, StorageError> {
    if executions.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<ChunkRow> = sql("SELECT execution_id, records FROM events WHERE execution_id = ANY(?) \
                                   ORDER BY execution_id, first_sequence")
    .bind::<Array<SqlUuid>, _>(executions.to_vec())
    .load(conn)
    .await?;
    let mut found: HashMap<Uuid, Log> = HashMap::new();
    for row in rows {
        let log = found.entry(row.execution_id).or_default();
        for record in read(&row.records)? {
            if record.name.starts_with("output.") || record.name.starts_with("node.") {
                let body = record.body().map_err(|error| StorageError::Corrupt(error.to_string()))?;
                apply(log, record.sequence.epoch(), body);
            }
        }
    }
    Ok(found)
}

/// What a client does with an output event; and which nodes are open.
fn apply(Log { units, begun }: &mut Log, epoch: i32, body: EventBody) {
    match body {
        EventBody::NodeStarted { node, .. } => {
            begun.insert(node, epoch);
        }
        EventBody::NodeCompleted { node } | EventBody::NodeFailed { node, .. } | EventBody::NodeSkipped { node } => {
            begun.remove(&node);
        }
        EventBody::OutputDelta { node, unit, text, .. } => {
            let shown = units.entry(UnitKey { node, unit }).or_default();
            shown.text.push_str(&text);
            shown.epoch = epoch;
        }
        EventBody::OutputReset { node, unit, offset, .. } => {
            let key = UnitKey { node, unit };
            let keep = usize::try_from(offset).unwrap_or(usize::MAX);
            if let Some(shown) = units.get_mut(&key) {
                shown.text = shown.text.chars().take(keep).collect();
                if shown.text.is_empty() {
                    units.remove(&key);
                }
            }
        }
        _ => {}
    }
}

fn read(records: &str) -> Result<Vec<EventRecord>, StorageError> {
    serde_json::from_str(records).map_err(|error| StorageError::Corrupt(format!("event chunk: {error}")))
}

//! Reports: units, usage rows, events and finishes of the executions that one executor holds, in one transaction.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Bool, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{Change, EventBody, EventRecord, ExecutionId, ExecutorId, Sequence, State};
use protocol::report::{DeliverableRow, Finish, Report, Standing, Verdict};
use uuid::Uuid;

use crate::{
    error::StorageError,
    leader::write_as_leader,
    ledger::{Entry, lock, save},
    sql::sql,
    usage::Calls,
};

/// What became of one report.
#[derive(Debug, Clone)]
pub struct Reported {
    /// The answer to the executor.
    pub verdict: Verdict,
    /// Events that are stored now and were not before, for those who watch.
    pub appended: Vec<EventRecord>,
    /// Where the attempt ended: a terminal state, or queued or waiting.
    pub ended: Option<Ended>,
    /// Units that are finished now and were not before.
    pub new_units: usize,
}

/// The end of an attempt.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Terminal, queued (given back) or waiting (parked).
    pub state: State,
    /// When it may be released or wakes.
    pub eligible_at: Option<DateTime<Utc>>,
    /// How long the attempt held its slot, in milliseconds.
    pub held_ms: i64,
}

#[derive(QueryableByName)]
struct WrittenRow {
    #[diesel(sql_type = SqlUuid)]
    execution_id: Uuid,
    #[diesel(sql_type = Bool)]
    complete: bool,
}

/// What a report brings besides the row itself.
#[derive(Default)]
struct Payload<'a> {
    units: Vec<(ExecutionId, i32, &'a protocol::report::UnitReport, i64)>,
    results: Vec<(ExecutionId, Option<&'a str>, Option<serde_json::Value>)>,
    deliverables: Vec<(ExecutionId, &'a DeliverableRow)>,
}

/// A report with who sent it.
#[derive(Debug, Clone, Copy)]
pub struct Filed<'a> {
    /// The sender.
    pub executor: ExecutorId,
    /// What it says.
    pub report: &'a Report,
}

/// Takes the reports of one executor. The answers are in the order of the reports.
///
/// # Errors
/// As [`report_batch`].
pub async fn report(
    conn: &mut AsyncPgConnection,
    term: i64,
    executor: ExecutorId,
    reports: &[Report],
    now: DateTime<Utc>,
) -> Result<Vec<Reported>, StorageError> {
    let filed: Vec<Filed<'_>> = reports.iter().map(|report| Filed { executor, report }).collect();
    report_batch(conn, term, &filed, now).await
}

/// Takes reports of any executors, in one transaction. The answers are in the order of the reports.
///
/// # Errors
/// When the database cannot be reached or another process leads: send the same reports again.
pub async fn report_batch(
    conn: &mut AsyncPgConnection,
    term: i64,
    reports: &[Filed<'_>],
    now: DateTime<Utc>,
) -> Result<Vec<Reported>, StorageError> {
    write_as_leader!(conn, term, report_once(conn, reports, now))
}

async fn report_once(
    conn: &AsyncPgConnection,
    reports: &[Filed<'_>],
    now: DateTime<Utc>,
) -> Result<Vec<Reported>, StorageError> {
    let mut entries = lock(conn, reports.iter().map(|filed| filed.report.execution_id.uuid()).collect()).await?;
    let places: HashMap<ExecutionId, usize> = entries.iter().enumerate().map(|(at, entry)| (entry.id, at)).collect();
    // What a call cost counts whoever holds the execution now; decided before the reports are.
    let calls = Calls::of(reports, &entries, &places);
    let mut payload = Payload::default();
    let mut answers = Vec::with_capacity(reports.len());
    for Filed { executor, report } in reports {
        let entry = places.get(&report.execution_id).and_then(|at| entries.get_mut(*at));
        answers.push(match entry {
            Some(entry) => take(entry, *executor, report, &mut payload, now)?,
            None => lost(report, Sequence::START),
        });
    }
    let (counted, units) = futures::try_join!(calls.insert(conn), write_units(conn, &payload, now))?;
    calls.count(conn, counted, &mut entries, &places).await?;
    let first: HashMap<ExecutionId, usize> =
        reports.iter().enumerate().rev().map(|(at, filed)| (filed.report.execution_id, at)).collect();
    for unit in units.into_iter().filter(|unit| unit.complete) {
        // Progress: the next loss is the first again.
        let id = ExecutionId::from_uuid(unit.execution_id);
        if let Some(entry) = places.get(&id).and_then(|at| entries.get_mut(*at)).filter(|entry| entry.losses > 0) {
            entry.losses = 0;
            entry.touch();
        }
        if let Some(answer) = first.get(&id).and_then(|at| answers.get_mut(*at)) {
            answer.new_units += 1;
        }
    }
    let (results, files) = (write_results(conn, &payload), write_deliverables(conn, &payload.deliverables));
    futures::try_join!(results, files, save(conn, &entries))?;
    Ok(answers)
}

fn lost(report: &Report, stored_through: Sequence) -> Reported {
    answer(report, stored_through, Standing::Lost)
}

fn answer(report: &Report, stored_through: Sequence, standing: Standing) -> Reported {
    let verdict = Verdict { execution_id: report.execution_id, epoch: report.epoch, stored_through, standing };
    Reported { verdict, appended: Vec::new(), ended: None, new_units: 0 }
}

/// Decides about one report: the fence first, then the order of events, then everything.
fn take<'a>(
    entry: &mut Entry,
    executor: ExecutorId,
    report: &'a Report,
    payload: &mut Payload<'a>,
    now: DateTime<Utc>,
) -> Result<Reported, StorageError> {
    let held = entry.state.is_held() && entry.epoch == report.epoch && entry.executor_id == Some(executor.uuid());
    if !held {
        // A finish that was taken, and whose answer was lost, is over; everything else is somebody else's now.
        let finished = report.finish.is_some() && entry.epoch == report.epoch && entry.state.is_terminal();
        let standing = if finished { Standing::Over } else { Standing::Lost };
        return Ok(answer(report, entry.last_sequence, standing));
    }
    let fresh: Vec<&EventRecord> =
        report.events.iter().filter(|record| record.sequence > entry.last_sequence).collect();
    if !contiguous(&fresh, entry.last_sequence, report.epoch) {
        return Ok(answer(report, entry.last_sequence, Standing::Gap));
    }
    let before = entry.events.len();
    for record in fresh {
        entry.append(record.clone());
    }
    take_units(entry, report, payload);
    if let Some(progress) = &report.progress {
        entry.progress = progress.clone();
        entry.touch();
    }
    let held_ms = entry.claimed_at.map_or(0, |at| (now - at).num_milliseconds());
    let ended = match &report.finish {
        Some(finish) => {
            end(entry, finish, payload, now)?;
            Some(Ended { state: entry.state, eligible_at: entry.eligible_at, held_ms })
        }
        None => None,
    };
    let standing = match (&ended, entry.state) {
        (Some(_), _) => Standing::Over,
        (None, State::Cancelling) => Standing::Cancelling,
        (None, _) => Standing::Held,
    };
    let mut reported = answer(report, entry.last_sequence, standing);
    reported.appended = entry.events.get(before..).map(<[EventRecord]>::to_vec).unwrap_or_default();
    reported.ended = ended;
    Ok(reported)
}

/// Each the next after the one before, in the numbers of this attempt; and no terminal event, which only status writes.
fn contiguous(records: &[&EventRecord], last: Sequence, epoch: i32) -> bool {
    let mut prev = last;
    records.iter().all(|record| {
        let next = record.prev == prev && record.sequence == prev.next_in(epoch) && !record.is_terminal();
        prev = record.sequence;
        next
    })
}

fn take_units<'a>(entry: &Entry, report: &'a Report, payload: &mut Payload<'a>) {
    for unit in &report.units {
        let tokens = report
            .usage
            .iter()
            .filter(|row| row.key == unit.key)
            .map(|row| row.input_tokens.unwrap_or(0).saturating_add(row.output_tokens.unwrap_or(0)))
            .sum();
        payload.units.push((entry.id, entry.epoch, unit, tokens));
    }
}

/// Ends the attempt. The terminal event is written here and nowhere else, by what really became of the execution.
fn end<'a>(
    entry: &mut Entry,
    finish: &'a Finish,
    payload: &mut Payload<'a>,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let change = match finish {
        Finish::Completed { .. } => Change::Complete,
        Finish::Failed { .. } => Change::Fail,
        // Without a stop there is nothing to confirm: the executor lets go of it.
        Finish::Cancelled { .. } if entry.state == State::Cancelling => Change::ConfirmStop,
        Finish::Cancelled { .. } | Finish::GivenBack => Change::GiveBack,
        Finish::Parked { .. } => Change::Park,
    };
    let state = entry.change(change, now).map_err(|error| StorageError::Corrupt(format!("{}: {error}", entry.id)))?;
    if let Finish::Cancelled { acknowledged_at, upstream_closed_at, tokens } = finish {
        if state == State::Cancelled {
            entry.stop.executor_ack_at = Some(*acknowledged_at);
            entry.stop.tokens = Some(*tokens);
            entry.close("executor", Some(*upstream_closed_at));
        }
    } else if state == State::Cancelled {
        entry.stop.executor_ack_at.get_or_insert(now);
        entry.close("executor", Some(now));
    }
    match (state, finish) {
        (State::Completed, Finish::Completed { result, deliverables }) => {
            payload.results.push((entry.id, Some(result.get()), None));
            payload.deliverables.extend(deliverables.iter().map(|file| (entry.id, file)));
            entry.write(EventBody::Completed, now)
        }
        (State::Failed, Finish::Failed { failure }) => {
            let stored = serde_json::to_value(failure).map_err(|error| StorageError::Corrupt(error.to_string()))?;
            payload.results.push((entry.id, None, Some(without_nul(stored))));
            entry.write(EventBody::Failed { error: failure.into() }, now)
        }
        (State::Cancelled, _) => entry.write(EventBody::Cancelled, now),
        (State::Waiting, Finish::Parked { reason, until }) => {
            entry.take_epoch();
            entry.waiting_reason = Some(*reason);
            entry.eligible_at = Some(*until);
            entry.write(EventBody::Waiting { reason: *reason, until: Some(*until) }, now)
        }
        _ => {
            entry.take_epoch();
            entry.write(EventBody::Queued { reason: Some("given_back".to_owned()) }, now)
        }
    }
}

/// `jsonb` cannot hold a NUL.
fn without_nul(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(text) => Value::String(text.replace('\0', "\u{fffd}")),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nul).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, without_nul(value))).collect())
        }
        other => other,
    }
}

/// Stores units: a complete one replaces a partial one and is never replaced. Returns what was written.
async fn write_units(
    conn: &AsyncPgConnection,
    payload: &Payload<'_>,
    now: DateTime<Utc>,
) -> Result<Vec<WrittenRow>, StorageError> {
    let units = &payload.units;
    if units.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sql("INSERT INTO units (execution_id, node, unit, epoch, complete, output, tokens, finished_at) \
         SELECT DISTINCT ON (execution_id, node, unit) execution_id, node, unit, epoch, complete, output, tokens, ?::timestamptz \
         FROM unnest(?::uuid[], ?::text[], ?::integer[], ?::integer[], ?::boolean[], ?::text[], ?::bigint[]) \
         AS n(execution_id, node, unit, epoch, complete, output, tokens) ORDER BY execution_id, node, unit, complete DESC \
         ON CONFLICT (execution_id, node, unit) DO UPDATE SET epoch = excluded.epoch, complete = excluded.complete, \
         output = excluded.output, tokens = excluded.tokens, finished_at = excluded.finished_at WHERE NOT units.complete \
         RETURNING execution_id, complete")
    .bind::<Timestamptz, _>(now)
    .bind::<Array<SqlUuid>, _>(units.iter().map(|unit| unit.0.uuid()).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(units.iter().map(|unit| unit.2.key.node.clone()).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(units.iter().map(|unit| unit.2.key.unit).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(units.iter().map(|unit| unit.1).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(units.iter().map(|unit| unit.2.complete).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(units.iter().map(|unit| unit.2.output.get().to_owned()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(units.iter().map(|unit| unit.3).collect::<Vec<_>>())
    .load(conn)
    .await?;
    Ok(rows)
}

async fn write_results(conn: &AsyncPgConnection, payload: &Payload<'_>) -> Result<(), StorageError> {
    let results = &payload.results;
    if results.is_empty() {
        return Ok(());
    }
    sql("INSERT INTO execution_results (execution_id, result, failure) \
         SELECT * FROM unnest(?::uuid[], ?::text[], ?::jsonb[])")
    .bind::<Array<SqlUuid>, _>(results.iter().map(|result| result.0.uuid()).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(results.iter().map(|result| result.1.map(str::to_owned)).collect::<Vec<_>>())
    .bind::<Array<Nullable<Jsonb>>, _>(results.iter().map(|result| result.2.clone()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

async fn write_deliverables(
    conn: &AsyncPgConnection,
    files: &[(ExecutionId, &DeliverableRow)],
) -> Result<(), StorageError> {
    if files.is_empty() {
        return Ok(());
    }
    sql("INSERT INTO deliverables (execution_id, name, format, media_type, bytes, object_key, error) \
         SELECT * FROM unnest(?::uuid[], ?::text[], ?::text[], ?::text[], ?::bigint[], ?::text[], ?::text[]) ON CONFLICT DO NOTHING")
    .bind::<Array<SqlUuid>, _>(files.iter().map(|file| file.0.uuid()).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(files.iter().map(|file| file.1.name.clone()).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(files.iter().map(|file| file.1.format.clone()).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(files.iter().map(|file| file.1.media_type.clone()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(files.iter().map(|file| file.1.bytes).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(files.iter().map(|file| file.1.object_key.clone()).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(files.iter().map(|file| file.1.error.clone()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

//! The usage ledger: one row per provider call, counted once, from whoever reports it.

use std::collections::{HashMap, HashSet};

use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Integer, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::ExecutionId;
use protocol::report::{Report, UsageRow, UsageSource};
use uuid::Uuid;

use crate::{error::StorageError, ledger::Entry, reports::Filed, sql::sql};

#[derive(QueryableByName)]
struct CallRow {
    #[diesel(sql_type = SqlUuid)]
    call_id: Uuid,
}

#[derive(QueryableByName)]
struct EstimateRow {
    #[diesel(sql_type = SqlUuid)]
    execution_id: Uuid,
    #[diesel(sql_type = Nullable<BigInt>)]
    output_tokens: Option<i64>,
}

/// The calls that reports tell of, stale reports too, with what their executions are charged by.
pub(crate) struct Calls<'a> {
    rows: Vec<Call<'a>>,
}

#[derive(Clone, Copy)]
struct Call<'a> {
    report: &'a Report,
    row: &'a UsageRow,
    user_id: Uuid,
    engine_id: Uuid,
    version_id: Uuid,
    /// Of an attempt that is over: an estimate may stand for it.
    late: bool,
}

impl<'a> Calls<'a> {
    /// The calls of executions that exist.
    pub(crate) fn of(reports: &[Filed<'a>], entries: &[Entry], places: &HashMap<ExecutionId, usize>) -> Self {
        let known = reports
            .iter()
            .filter_map(|filed| Some((filed.report, entries.get(*places.get(&filed.report.execution_id)?)?)));
        let rows = known.flat_map(|(report, entry)| {
            let (user_id, engine_id, version_id) = (entry.user_id, entry.engine_id, entry.version_id);
            let late = report.epoch < entry.epoch;
            report.usage.iter().map(move |row| Call { report, row, user_id, engine_id, version_id, late })
        });
        Self { rows: rows.collect() }
    }

    /// Writes those that are not there yet; returns which.
    pub(crate) async fn insert(&self, conn: &AsyncPgConnection) -> Result<HashSet<Uuid>, StorageError> {
        if self.rows.is_empty() {
            return Ok(HashSet::new());
        }
        let inserted: Vec<CallRow> = insert_usage(&self.rows).load(conn).await?;
        Ok(inserted.into_iter().map(|row| row.call_id).collect())
    }

    /// Adds what was really inserted to the executions' totals.
    pub(crate) async fn count(
        &self,
        conn: &AsyncPgConnection,
        mut inserted: HashSet<Uuid>,
        entries: &mut [Entry],
        places: &HashMap<ExecutionId, usize>,
    ) -> Result<(), StorageError> {
        let mut late = Vec::new();
        for Call { report, row, late: is_late, .. } in &self.rows {
            let entry = places.get(&report.execution_id).and_then(|at| entries.get_mut(*at));
            // Removed, because a call that is named twice in one request was inserted once.
            if let Some(entry) = entry.filter(|_| inserted.remove(&row.call_id.uuid())) {
                entry.input_tokens = entry.input_tokens.saturating_add(row.input_tokens.unwrap_or(0));
                entry.output_tokens = entry.output_tokens.saturating_add(row.output_tokens.unwrap_or(0));
                entry.touch();
                if *is_late {
                    late.push((*report, *row));
                }
            }
        }
        replace_estimates(conn, &late, entries, places).await
    }
}

/// The true rows of a lost executor came after all: what status estimated for the same units of the same attempt goes.
async fn replace_estimates(
    conn: &AsyncPgConnection,
    late: &[(&Report, &UsageRow)],
    entries: &mut [Entry],
    places: &HashMap<ExecutionId, usize>,
) -> Result<(), StorageError> {
    if late.is_empty() {
        return Ok(());
    }
    let removed: Vec<EstimateRow> = sql("DELETE FROM usage_calls u USING unnest(?::uuid[], ?::integer[], ?::text[], ?::integer[]) \
         AS n(execution_id, epoch, node, unit) WHERE u.execution_id = n.execution_id AND u.epoch = n.epoch AND u.node = n.node \
         AND u.unit = n.unit AND u.source = ? RETURNING u.execution_id, u.output_tokens")
    .bind::<Array<SqlUuid>, _>(late.iter().map(|(report, _)| report.execution_id.uuid()).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(late.iter().map(|(report, _)| report.epoch).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(late.iter().map(|(_, row)| row.key.node.clone()).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(late.iter().map(|(_, row)| row.key.unit).collect::<Vec<_>>())
    .bind::<SmallInt, _>(UsageSource::Lost as i16)
    .load(conn)
    .await?;
    for row in removed {
        let place = places.get(&ExecutionId::from_uuid(row.execution_id));
        if let Some(entry) = place.and_then(|at| entries.get_mut(*at)) {
            entry.output_tokens -= row.output_tokens.unwrap_or(0);
        }
    }
    Ok(())
}

fn insert_usage(calls: &[Call<'_>]) -> crate::sql::Sql {
    fn column<T>(calls: &[Call<'_>], value: impl Fn(&Call<'_>) -> T) -> Vec<T> {
        calls.iter().map(value).collect()
    }
    fn rows<T>(calls: &[Call<'_>], value: impl Fn(&UsageRow) -> T) -> Vec<T> {
        calls.iter().map(|call| value(call.row)).collect()
    }
    sql("INSERT INTO usage_calls (call_id, execution_id, epoch, node, unit, user_id, engine_id, version_id, model, source, outcome, \
         input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, provider_request_id, raw, started_at, ended_at) \
         SELECT * FROM unnest(?::uuid[], ?::uuid[], ?::integer[], ?::text[], ?::integer[], ?::uuid[], ?::uuid[], ?::uuid[], ?::text[], \
         ?::smallint[], ?::smallint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::text[], ?::text[], \
         ?::timestamptz[], ?::timestamptz[]) ON CONFLICT DO NOTHING RETURNING call_id")
    .bind::<Array<SqlUuid>, _>(rows(calls, |row| row.call_id.uuid()))
    .bind::<Array<SqlUuid>, _>(column(calls, |call| call.report.execution_id.uuid()))
    .bind::<Array<Integer>, _>(column(calls, |call| call.report.epoch))
    .bind::<Array<Text>, _>(rows(calls, |row| row.key.node.clone()))
    .bind::<Array<Integer>, _>(rows(calls, |row| row.key.unit))
    .bind::<Array<SqlUuid>, _>(column(calls, |call| call.user_id))
    .bind::<Array<SqlUuid>, _>(column(calls, |call| call.engine_id))
    .bind::<Array<SqlUuid>, _>(column(calls, |call| call.version_id))
    .bind::<Array<Text>, _>(rows(calls, |row| row.model.clone()))
    .bind::<Array<SmallInt>, _>(rows(calls, |row| row.source as i16))
    .bind::<Array<SmallInt>, _>(rows(calls, |row| row.outcome as i16))
    .bind::<Array<Nullable<BigInt>>, _>(rows(calls, |row| row.input_tokens))
    .bind::<Array<Nullable<BigInt>>, _>(rows(calls, |row| row.output_tokens))
    .bind::<Array<Nullable<BigInt>>, _>(rows(calls, |row| row.cache_read_tokens))
    .bind::<Array<Nullable<BigInt>>, _>(rows(calls, |row| row.cache_write_tokens))
    .bind::<Array<Nullable<BigInt>>, _>(rows(calls, |row| row.reasoning_tokens))
    .bind::<Array<Nullable<Text>>, _>(rows(calls, |row| row.provider_request_id.clone()))
    .bind::<Array<Nullable<Text>>, _>(rows(calls, |row| row.raw.as_ref().map(|raw| raw.get().to_owned())))
    .bind::<Array<Timestamptz>, _>(rows(calls, |row| row.started_at))
    .bind::<Array<Timestamptz>, _>(rows(calls, |row| row.ended_at))
}

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

use crate::{error::StorageError, ledger::Entry, sql::sql};

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

/// Takes the usage rows of reports, stale ones too. The executions' totals grow by what was really inserted.
pub(crate) async fn count_usage(
    conn: &AsyncPgConnection,
    reports: &[Report],
    entries: &mut [Entry],
    places: &HashMap<ExecutionId, usize>,
) -> Result<(), StorageError> {
    let rows: Vec<(&Report, &Entry, &UsageRow)> = reports
        .iter()
        .filter_map(|report| Some((report, entries.get(*places.get(&report.execution_id)?)?)))
        .flat_map(|(report, entry)| report.usage.iter().map(move |row| (report, entry, row)))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let inserted: Vec<CallRow> = insert_usage(&rows).load(conn).await?;
    let mut inserted: HashSet<Uuid> = inserted.into_iter().map(|row| row.call_id).collect();
    let mut late = Vec::new();
    for report in reports {
        let Some(entry) = places.get(&report.execution_id).and_then(|at| entries.get_mut(*at)) else { continue };
        for row in &report.usage {
            // Removed, because a call that is named twice in one request was inserted once.
            if inserted.remove(&row.call_id.uuid()) {
                entry.input_tokens += row.input_tokens.unwrap_or(0);
                entry.output_tokens += row.output_tokens.unwrap_or(0);
                entry.touch();
                if report.epoch < entry.epoch {
                    late.push((report, row));
                }
            }
        }
    }
    replace_estimates(conn, &late, entries, places).await
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

fn insert_usage(rows: &[(&Report, &Entry, &UsageRow)]) -> crate::sql::Sql {
    fn column<T>(rows: &[(&Report, &Entry, &UsageRow)], value: impl Fn(&Report, &Entry, &UsageRow) -> T) -> Vec<T> {
        rows.iter().map(|(report, entry, row)| value(report, entry, row)).collect()
    }
    sql("INSERT INTO usage_calls (call_id, execution_id, epoch, node, unit, user_id, engine_id, version_id, model, source, outcome, \
         input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, provider_request_id, raw, started_at, ended_at) \
         SELECT * FROM unnest(?::uuid[], ?::uuid[], ?::integer[], ?::text[], ?::integer[], ?::uuid[], ?::uuid[], ?::uuid[], ?::text[], \
         ?::smallint[], ?::smallint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::text[], ?::text[], \
         ?::timestamptz[], ?::timestamptz[]) ON CONFLICT DO NOTHING RETURNING call_id")
    .bind::<Array<SqlUuid>, _>(column(rows, |_, _, row| row.call_id.uuid()))
    .bind::<Array<SqlUuid>, _>(column(rows, |report, _, _| report.execution_id.uuid()))
    .bind::<Array<Integer>, _>(column(rows, |report, _, _| report.epoch))
    .bind::<Array<Text>, _>(column(rows, |_, _, row| row.key.node.clone()))
    .bind::<Array<Integer>, _>(column(rows, |_, _, row| row.key.unit))
    .bind::<Array<SqlUuid>, _>(column(rows, |_, entry, _| entry.user_id))
    .bind::<Array<SqlUuid>, _>(column(rows, |_, entry, _| entry.engine_id))
    .bind::<Array<SqlUuid>, _>(column(rows, |_, entry, _| entry.version_id))
    .bind::<Array<Text>, _>(column(rows, |_, _, row| row.model.clone()))
    .bind::<Array<SmallInt>, _>(column(rows, |_, _, row| row.source as i16))
    .bind::<Array<SmallInt>, _>(column(rows, |_, _, row| row.outcome as i16))
    .bind::<Array<Nullable<BigInt>>, _>(column(rows, |_, _, row| row.input_tokens))
    .bind::<Array<Nullable<BigInt>>, _>(column(rows, |_, _, row| row.output_tokens))
    .bind::<Array<Nullable<BigInt>>, _>(column(rows, |_, _, row| row.cache_read_tokens))
    .bind::<Array<Nullable<BigInt>>, _>(column(rows, |_, _, row| row.cache_write_tokens))
    .bind::<Array<Nullable<BigInt>>, _>(column(rows, |_, _, row| row.reasoning_tokens))
    .bind::<Array<Nullable<Text>>, _>(column(rows, |_, _, row| row.provider_request_id.clone()))
    .bind::<Array<Nullable<Text>>, _>(column(rows, |_, _, row| row.raw.as_ref().map(|raw| raw.get().to_owned())))
    .bind::<Array<Timestamptz>, _>(column(rows, |_, _, row| row.started_at))
    .bind::<Array<Timestamptz>, _>(column(rows, |_, _, row| row.ended_at))
}

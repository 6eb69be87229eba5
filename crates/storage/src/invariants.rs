//! The invariant query (G5): empty while all is well. Run after every chaos test and by operators.

use diesel::{
    QueryableByName,
    sql_types::{Text, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::ExecutionId;
use protocol::operate::Violation;
use uuid::Uuid;

use crate::{error::StorageError, sql::sql};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    rule: String,
    #[diesel(sql_type = SqlUuid)]
    execution_id: Uuid,
}

/// Every broken rule, at most 1,000. Of what has ended, the newest 20,000 are looked at: the check must not grow with history.
///
/// # Errors
/// When the database cannot be reached.
pub async fn violations(conn: &mut AsyncPgConnection) -> Result<Vec<Violation>, StorageError> {
    let rows: Vec<Row> = sql("WITH ended AS MATERIALIZED (SELECT * FROM (SELECT id, finished_at, last_sequence FROM executions \
         ORDER BY id DESC LIMIT 20000) newest WHERE finished_at IS NOT NULL) \
         SELECT 'held_without_lease' AS rule, e.id AS execution_id FROM executions e \
         LEFT JOIN executors x ON x.id = e.executor_id WHERE e.finished_at IS NULL AND e.state IN (1, 3) \
         AND (x.lease_until IS NULL OR x.lease_until < now() - interval '30 seconds') \
         UNION ALL SELECT 'waiting_without_wake_up', id FROM executions WHERE finished_at IS NULL AND state = 2 \
         AND (eligible_at IS NULL OR eligible_at < now() - interval '60 seconds') \
         UNION ALL SELECT 'terminal_without_one_terminal_event', e.id FROM ended e LEFT JOIN LATERAL \
         (SELECT sum((length(v.records) - length(replace(v.records, t.name, ''))) / length(t.name)) AS times FROM events v, \
         (VALUES ('\"n\":\"execution.completed\"'), ('\"n\":\"execution.failed\"'), ('\"n\":\"execution.cancelled\"'), \
         ('\"n\":\"execution.expired\"')) AS t(name) WHERE v.execution_id = e.id) n ON true \
         WHERE n.times IS DISTINCT FROM 1 \
         UNION ALL SELECT 'terminal_event_before_the_end', e.id FROM executions e JOIN events v ON v.execution_id = e.id \
         WHERE e.finished_at IS NULL AND v.records ~ '\"n\":\"execution\\.(completed|failed|cancelled|expired)\"' \
         UNION ALL SELECT 'unit_above_epoch', e.id FROM executions e JOIN units u ON u.execution_id = e.id \
         WHERE e.finished_at IS NULL AND u.epoch > e.epoch \
         UNION ALL SELECT 'events_beyond_the_row', e.id FROM (SELECT id, last_sequence FROM ended UNION ALL \
         SELECT id, last_sequence FROM executions WHERE finished_at IS NULL) e JOIN LATERAL \
         (SELECT max(last_sequence) AS last FROM events WHERE execution_id = e.id) m ON true \
         WHERE m.last IS DISTINCT FROM e.last_sequence \
         LIMIT 1000")
    .load(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Violation { rule: row.rule, execution_id: Some(ExecutionId::from_uuid(row.execution_id)) })
        .collect())
}

//! Idempotency keys: a repeated submission is answered from what the first one left.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{EngineId, ExecutionId, VersionId};
use protocol::submission::{AskReplay, Replay, Submission};
use uuid::Uuid;

use super::{NewExecution, TakenIn};
use crate::{error::StorageError, sql::sql};

#[derive(QueryableByName)]
struct KeyRow {
    #[diesel(sql_type = SqlUuid)]
    user_id: Uuid,
    #[diesel(sql_type = Text)]
    route: String,
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Text)]
    body_hash: String,
    #[diesel(sql_type = SqlUuid)]
    execution_id: Uuid,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    version_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    created_at: Option<DateTime<Utc>>,
}

/// Enters the batch's idempotency keys; who finds theirs taken is answered from what is stored. A rejected submission leaves
/// no key, now or when its message comes again: the client's retry is a new submission.
pub(super) async fn replay_known_keys(
    conn: &AsyncPgConnection,
    batch: &[NewExecution<'_>],
    answers: &mut [Option<TakenIn>],
) -> Result<(), StorageError> {
    let (mut users, mut routes, mut keys, mut hashes, mut ids) = (vec![], vec![], vec![], vec![], vec![]);
    let mut rejected = Vec::new();
    for (new, _) in batch.iter().zip(&*answers).filter(|(_, answer)| answer.is_none()) {
        if let Some(idempotency) = &new.submission.idempotency {
            users.push(new.submission.user_id.uuid());
            routes.push(idempotency.route.clone());
            keys.push(idempotency.key.clone());
            hashes.push(idempotency.body_hash.clone());
            ids.push(new.submission.execution_id.uuid());
            rejected.push(new.rejected.is_some());
        }
    }
    if ids.is_empty() {
        return Ok(());
    }
    sql("INSERT INTO idempotency_keys (user_id, route, key, body_hash, execution_id) \
         SELECT user_id, route, key, body_hash, execution_id \
         FROM unnest(?::uuid[], ?::text[], ?::text[], ?::text[], ?::uuid[], ?::boolean[]) \
         AS n(user_id, route, key, body_hash, execution_id, rejected) \
         WHERE NOT rejected AND NOT EXISTS (SELECT FROM executions e WHERE e.id = n.execution_id) ON CONFLICT DO NOTHING")
    .bind::<Array<SqlUuid>, _>(users.clone())
    .bind::<Array<Text>, _>(routes.clone())
    .bind::<Array<Text>, _>(keys.clone())
    .bind::<Array<Text>, _>(hashes)
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<Array<Bool>, _>(rejected)
    .execute(conn)
    .await?;
    let rows: Vec<KeyRow> =
        sql("SELECT k.user_id, k.route, k.key, k.body_hash, k.execution_id, e.version_id, e.created_at \
         FROM unnest(?::uuid[], ?::text[], ?::text[]) AS w(user_id, route, key) \
         JOIN idempotency_keys k USING (user_id, route, key) LEFT JOIN executions e ON e.id = k.execution_id")
        .bind::<Array<SqlUuid>, _>(users)
        .bind::<Array<Text>, _>(routes)
        .bind::<Array<Text>, _>(keys)
        .load(conn)
        .await?;
    let rows: HashMap<(Uuid, &str, &str), &KeyRow> =
        rows.iter().map(|row| ((row.user_id, row.route.as_str(), row.key.as_str()), row)).collect();
    let by_id: HashMap<Uuid, &Submission> =
        batch.iter().map(|new| (new.submission.execution_id.uuid(), new.submission)).collect();
    for (new, answer) in batch.iter().zip(answers).filter(|(_, answer)| answer.is_none()) {
        let Some(idempotency) = &new.submission.idempotency else { continue };
        let key = (new.submission.user_id.uuid(), idempotency.route.as_str(), idempotency.key.as_str());
        let Some(row) = rows.get(&key) else { continue };
        if row.execution_id == new.submission.execution_id.uuid() {
            continue;
        }
        *answer = Some(if row.body_hash != idempotency.body_hash {
            TakenIn::Mismatch
        } else {
            replayed(row, by_id.get(&row.execution_id).copied(), new.submission)
        });
    }
    Ok(())
}

/// What was accepted under this key with this body.
///
/// # Errors
/// When the database cannot be reached.
pub async fn replay(conn: &mut AsyncPgConnection, asked: &AskReplay) -> Result<Option<Replay>, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        id: Uuid,
        #[diesel(sql_type = SqlUuid)]
        engine_id: Uuid,
        #[diesel(sql_type = SqlUuid)]
        version_id: Uuid,
        #[diesel(sql_type = Timestamptz)]
        created_at: DateTime<Utc>,
    }
    let rows: Vec<Row> = sql("SELECT e.id, e.engine_id, e.version_id, e.created_at FROM idempotency_keys k JOIN executions e ON e.id = k.execution_id \
         WHERE k.user_id = ? AND k.route = ? AND k.key = ? AND k.body_hash = ?")
    .bind::<SqlUuid, _>(asked.user_id.uuid())
    .bind::<Text, _>(asked.idempotency.route.clone())
    .bind::<Text, _>(asked.idempotency.key.clone())
    .bind::<Text, _>(asked.idempotency.body_hash.clone())
    .load(conn)
    .await?;
    Ok(rows.first().map(|row| Replay {
        execution_id: ExecutionId::from_uuid(row.id),
        engine_id: EngineId::from_uuid(row.engine_id),
        version_id: VersionId::from_uuid(row.version_id),
        created_at: row.created_at,
    }))
}

/// The row of then is stored, or it is the first of two equal ones in this very batch.
fn replayed(row: &KeyRow, in_batch: Option<&Submission>, submission: &Submission) -> TakenIn {
    let first = in_batch.unwrap_or(submission);
    TakenIn::Replayed {
        execution_id: ExecutionId::from_uuid(row.execution_id),
        version_id: row.version_id.map_or(first.version_id, VersionId::from_uuid),
        created_at: row.created_at.unwrap_or(first.submitted_at),
    }
}

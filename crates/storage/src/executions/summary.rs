//! What of an execution others need: its owner, what a restart or a resume starts from, and counts.

use diesel::{
    QueryableByName,
    sql_types::{BigInt, Bool, Jsonb, Nullable, SmallInt, Text, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{EngineId, ExecutionId, Priority, UserEngineId, UserId, VersionId};
use protocol::read::{ReadStats, Source, Stats, Subject};
use uuid::Uuid;

use super::raw;
use crate::{error::StorageError, ledger::state_of, sql::sql};

/// Whether there is such an execution of the subject.
///
/// # Errors
/// When the database cannot be reached.
pub async fn is_owned(conn: &mut AsyncPgConnection, subject: &Subject) -> Result<bool, StorageError> {
    #[derive(QueryableByName)]
    struct Owned {
        #[diesel(sql_type = Bool)]
        owned: bool,
    }
    let row: Owned = sql("SELECT EXISTS (SELECT FROM executions e JOIN (SELECT ?::uuid AS id, ?::uuid AS user_id, ?::uuid AS copy) s \
         ON e.id = s.id AND (s.user_id IS NULL OR e.user_id = s.user_id) AND (s.copy IS NULL OR e.user_engine_id = s.copy)) AS owned")
    .bind::<SqlUuid, _>(subject.execution_id.uuid())
    .bind::<Nullable<SqlUuid>, _>(subject.user_id.map(UserId::uuid))
    .bind::<Nullable<SqlUuid>, _>(subject.user_engine_id.map(UserEngineId::uuid))
    .get_result(conn)
    .await?;
    Ok(row.owned)
}

#[derive(QueryableByName)]
struct SourceRow {
    #[diesel(sql_type = SmallInt)]
    state: i16,
    #[diesel(sql_type = SqlUuid)]
    engine_id: Uuid,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    user_engine_id: Option<Uuid>,
    #[diesel(sql_type = SqlUuid)]
    version_id: Uuid,
    #[diesel(sql_type = Text)]
    input: String,
    #[diesel(sql_type = SmallInt)]
    priority: i16,
    #[diesel(sql_type = Jsonb)]
    labels: serde_json::Value,
    #[diesel(sql_type = Nullable<Text>)]
    end_user: Option<String>,
    #[diesel(sql_type = BigInt)]
    completed_units: i64,
    #[diesel(sql_type = BigInt)]
    tokens_saved: i64,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    unfinished_resume: Option<Uuid>,
}

/// What a restart or a resume starts from.
///
/// # Errors
/// When the database cannot be reached.
pub async fn source(conn: &mut AsyncPgConnection, subject: &Subject) -> Result<Option<Source>, StorageError> {
    let row: Option<SourceRow> = sql("SELECT e.state, e.engine_id, e.user_engine_id, e.version_id, d.input, e.priority, d.labels, d.end_user, \
         (SELECT count(*) FROM units u WHERE u.execution_id = e.id AND u.complete) AS completed_units, \
         (SELECT COALESCE(sum(u.tokens), 0)::bigint FROM units u WHERE u.execution_id = e.id AND u.complete) AS tokens_saved, \
         (SELECT c.id FROM executions c WHERE c.parent_id = e.id AND c.finished_at IS NULL LIMIT 1) AS unfinished_resume \
         FROM executions e JOIN (SELECT ?::uuid AS id, ?::uuid AS user_id, ?::uuid AS copy) s ON e.id = s.id \
         AND (s.user_id IS NULL OR e.user_id = s.user_id) AND (s.copy IS NULL OR e.user_engine_id = s.copy) \
         JOIN execution_details d ON d.execution_id = e.id")
    .bind::<SqlUuid, _>(subject.execution_id.uuid())
    .bind::<Nullable<SqlUuid>, _>(subject.user_id.map(UserId::uuid))
    .bind::<Nullable<SqlUuid>, _>(subject.user_engine_id.map(UserEngineId::uuid))
    .load(conn)
    .await?
    .pop();
    row.map(|row| {
        Ok(Source {
            execution_id: subject.execution_id,
            state: state_of(row.state)?,
            engine_id: EngineId::from_uuid(row.engine_id),
            user_engine_id: row.user_engine_id.map(UserEngineId::from_uuid),
            version_id: VersionId::from_uuid(row.version_id),
            input: raw(row.input)?,
            priority: Priority::from_code(row.priority).unwrap_or_default(),
            labels: serde_json::from_value(row.labels).map_err(|error| StorageError::Corrupt(error.to_string()))?,
            end_user: row.end_user,
            completed_units: u32::try_from(row.completed_units).unwrap_or(u32::MAX),
            tokens_saved: row.tokens_saved,
            unfinished_resume: row.unfinished_resume.map(ExecutionId::from_uuid),
        })
    })
    .transpose()
}

#[derive(QueryableByName)]
struct CountRow {
    #[diesel(sql_type = SmallInt)]
    state: i16,
    #[diesel(sql_type = BigInt)]
    count: i64,
    #[diesel(sql_type = BigInt)]
    input_tokens: i64,
    #[diesel(sql_type = BigInt)]
    output_tokens: i64,
}

/// Counts of an owner's executions and their tokens.
///
/// # Errors
/// When the database cannot be reached.
pub async fn stats(conn: &mut AsyncPgConnection, query: &ReadStats) -> Result<Stats, StorageError> {
    let rows: Vec<CountRow> = sql("SELECT e.state, count(*) AS count, COALESCE(sum(e.input_tokens), 0)::bigint AS input_tokens, \
         COALESCE(sum(e.output_tokens), 0)::bigint AS output_tokens FROM executions e \
         JOIN (SELECT ?::uuid AS user_id, ?::uuid AS copy) s ON e.user_id = s.user_id AND (s.copy IS NULL OR e.user_engine_id = s.copy) \
         GROUP BY e.state")
    .bind::<SqlUuid, _>(query.user_id.uuid())
    .bind::<Nullable<SqlUuid>, _>(query.user_engine_id.map(UserEngineId::uuid))
    .load(conn)
    .await?;
    let mut stats = Stats::default();
    for row in rows {
        stats.by_state.insert(state_of(row.state)?.as_str().to_owned(), row.count);
        stats.input_tokens += row.input_tokens;
        stats.output_tokens += row.output_tokens;
    }
    Ok(stats)
}

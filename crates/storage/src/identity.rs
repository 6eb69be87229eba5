//! Who asks, and which engine they mean.

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, Binary, Bool, Double, Integer, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{EngineId, KeyId, LevelId, Priority, UserEngineId, UserId, VersionId};
use protocol::identity::{LevelLimits, ListEngines, Principal, Resolve, ResolvedEngine};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{error::StorageError, sql::sql};

/// A key as it is stored. The caller compares the hash, in constant time.
#[derive(Debug, Clone)]
pub struct StoredKey {
    /// HMAC-SHA256 of the whole key.
    pub hash: Vec<u8>,
    /// Whether its time is over.
    pub expired: bool,
    /// Whether it was ended by hand or replaced and its grace is over.
    pub revoked: bool,
    /// Whether its use was noted within the last minute.
    pub used_lately: bool,
    /// Who asks with it.
    pub principal: Principal,
}

#[derive(QueryableByName)]
struct KeyRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Binary)]
    hash: Vec<u8>,
    #[diesel(sql_type = SqlUuid)]
    user_id: Uuid,
    #[diesel(sql_type = Text)]
    user_name: String,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    user_engine_id: Option<Uuid>,
    #[diesel(sql_type = Array<Text>)]
    origins: Vec<String>,
    #[diesel(sql_type = Bool)]
    expired: bool,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    revoked_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Bool)]
    used_lately: bool,
    #[diesel(sql_type = SqlUuid)]
    level_id: Uuid,
    #[diesel(sql_type = Text)]
    level_name: String,
    #[diesel(sql_type = Double)]
    weight: f64,
    #[diesel(sql_type = Nullable<Integer>)]
    max_running: Option<i32>,
    #[diesel(sql_type = Nullable<Integer>)]
    max_queued: Option<i32>,
    #[diesel(sql_type = Nullable<Integer>)]
    requests_per_minute: Option<i32>,
    #[diesel(sql_type = SmallInt)]
    max_priority: i16,
}

/// The key of a public id, if there is one. Only reads: whoever has compared the hash notes the use with [`touch`].
///
/// # Errors
/// When the database cannot be reached.
pub async fn key(conn: &mut AsyncPgConnection, public_id: &str) -> Result<Option<StoredKey>, StorageError> {
    let row: Option<KeyRow> = sql("SELECT k.id, k.hash, k.user_id, u.name AS user_name, k.user_engine_id, k.origins, \
         COALESCE(k.expires_at <= now(), false) AS expired, k.revoked_at, \
         COALESCE(k.last_used_at > now() - interval '1 minute', false) AS used_lately, \
         l.id AS level_id, l.name AS level_name, l.weight, l.max_running, l.max_queued, l.requests_per_minute, l.max_priority \
         FROM api_keys k JOIN users u ON u.id = k.user_id JOIN levels l ON l.id = u.level_id WHERE k.public_id = ?")
    .bind::<Text, _>(public_id.to_owned())
    .load(conn)
    .await?
    .pop();
    Ok(row.map(|row| StoredKey {
        hash: row.hash,
        expired: row.expired,
        revoked: row.revoked_at.is_some(),
        used_lately: row.used_lately,
        principal: Principal {
            key_id: KeyId::from_uuid(row.id),
            user_id: UserId::from_uuid(row.user_id),
            user_name: row.user_name,
            user_engine_id: row.user_engine_id.map(UserEngineId::from_uuid),
            origins: row.origins,
            level: LevelLimits {
                level_id: LevelId::from_uuid(row.level_id),
                name: row.level_name,
                weight: row.weight,
                max_running: row.max_running.map(i32::unsigned_abs),
                max_queued: row.max_queued.map(i32::unsigned_abs),
                requests_per_minute: row.requests_per_minute.map(i32::unsigned_abs),
                max_priority: Priority::from_code(row.max_priority).unwrap_or_default(),
            },
        },
    }))
}

/// Notes that a key was used, at most once a minute. Two processes may note it at once: the same instant, give or take.
///
/// # Errors
/// When the database cannot be written.
pub async fn touch(conn: &mut AsyncPgConnection, key: KeyId) -> Result<(), StorageError> {
    sql("UPDATE api_keys SET last_used_at = now() WHERE id = ? \
         AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')")
    .bind::<SqlUuid, _>(key.uuid())
    .execute(conn)
    .await?;
    Ok(())
}

#[derive(QueryableByName)]
struct EngineRow {
    #[diesel(sql_type = SqlUuid)]
    engine_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    user_engine_id: Uuid,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    title: String,
    #[diesel(sql_type = Text)]
    description: String,
    #[diesel(sql_type = Bool)]
    enabled: bool,
    #[diesel(sql_type = SqlUuid)]
    version_id: Uuid,
    #[diesel(sql_type = Integer)]
    number: i32,
    #[diesel(sql_type = Nullable<Text>)]
    flow: Option<String>,
}

/// The engine that a user means by a name or an id, with the version it gets now.
///
/// # Errors
/// When the database cannot be reached.
pub async fn resolve(conn: &mut AsyncPgConnection, query: &Resolve) -> Result<Option<ResolvedEngine>, StorageError> {
    let engine: Option<EngineId> = query.engine.parse().ok();
    let copy: Option<UserEngineId> = query.engine.parse().ok();
    let row: Option<EngineRow> = sql("SELECT g.id AS engine_id, c.id AS user_engine_id, g.name, g.title, g.description, \
         g.enabled AND c.enabled AS enabled, v.id AS version_id, v.number, v.flow \
         FROM (SELECT ?::uuid AS user_id, ?::uuid AS bound, ?::uuid AS engine_id, ?::uuid AS copy_id, ?::text AS name, ?::uuid AS version_id) s \
         JOIN user_engines c ON c.user_id = s.user_id AND (s.bound IS NULL OR c.id = s.bound) JOIN engines g ON g.id = c.engine_id \
         JOIN engine_versions v ON v.engine_id = g.id AND v.id = COALESCE(s.version_id, c.pinned_version_id, g.current_version_id) \
         WHERE g.id = s.engine_id OR c.id = s.copy_id OR g.name = s.name")
    .bind::<SqlUuid, _>(query.user_id.uuid())
    .bind::<Nullable<SqlUuid>, _>(query.user_engine_id.map(UserEngineId::uuid))
    .bind::<Nullable<SqlUuid>, _>(engine.map(EngineId::uuid))
    .bind::<Nullable<SqlUuid>, _>(copy.map(UserEngineId::uuid))
    .bind::<Text, _>(query.engine.clone())
    .bind::<Nullable<SqlUuid>, _>(query.version_id.map(VersionId::uuid))
    .load(conn)
    .await?
    .pop();
    row.map(resolved).transpose()
}

/// A user's engines by name, at most 1,000, without their flows.
///
/// # Errors
/// When the database cannot be reached.
pub async fn engines(conn: &mut AsyncPgConnection, query: &ListEngines) -> Result<Vec<ResolvedEngine>, StorageError> {
    let rows: Vec<EngineRow> = sql("SELECT g.id AS engine_id, c.id AS user_engine_id, g.name, g.title, g.description, \
         g.enabled AND c.enabled AS enabled, v.id AS version_id, v.number, NULL::text AS flow \
         FROM (SELECT ?::uuid AS user_id, ?::uuid AS bound) s \
         JOIN user_engines c ON c.user_id = s.user_id AND (s.bound IS NULL OR c.id = s.bound) JOIN engines g ON g.id = c.engine_id \
         JOIN engine_versions v ON v.id = COALESCE(c.pinned_version_id, g.current_version_id) ORDER BY g.name LIMIT 1000")
    .bind::<SqlUuid, _>(query.user_id.uuid())
    .bind::<Nullable<SqlUuid>, _>(query.user_engine_id.map(UserEngineId::uuid))
    .load(conn)
    .await?;
    rows.into_iter().map(resolved).collect()
}

fn resolved(row: EngineRow) -> Result<ResolvedEngine, StorageError> {
    Ok(ResolvedEngine {
        engine_id: EngineId::from_uuid(row.engine_id),
        user_engine_id: Some(UserEngineId::from_uuid(row.user_engine_id)),
        name: row.name,
        title: row.title,
        description: row.description,
        enabled: row.enabled,
        version_id: VersionId::from_uuid(row.version_id),
        version_number: row.number,
        flow: match row.flow {
            Some(flow) => RawValue::from_string(flow).map_err(|error| StorageError::Corrupt(error.to_string()))?,
            None => RawValue::NULL.to_owned(),
        },
    })
}

#[derive(QueryableByName)]
struct OwnerRow {
    #[diesel(sql_type = SqlUuid)]
    user_id: Uuid,
    #[diesel(sql_type = Double)]
    weight: f64,
    #[diesel(sql_type = Nullable<Integer>)]
    max_running: Option<i32>,
    #[diesel(sql_type = Nullable<Integer>)]
    max_queued: Option<i32>,
}

/// What the scheduler has to know of an owner.
#[derive(Debug, Clone, Copy)]
pub struct OwnerLimits {
    /// The owner.
    pub user_id: UserId,
    /// Share in the fair queue.
    pub weight: f64,
    /// Executions at once.
    pub max_running: Option<u32>,
    /// Queued executions.
    pub max_queued: Option<u32>,
}

/// The limits of several owners in one statement.
///
/// # Errors
/// When the database cannot be reached.
pub async fn limits(conn: &mut AsyncPgConnection, users: &[UserId]) -> Result<Vec<OwnerLimits>, StorageError> {
    let rows: Vec<OwnerRow> = sql("SELECT u.id AS user_id, l.weight, l.max_running, l.max_queued FROM users u \
                                   JOIN levels l ON l.id = u.level_id WHERE u.id = ANY(?)")
    .bind::<Array<SqlUuid>, _>(users.iter().map(|user| user.uuid()).collect::<Vec<_>>())
    .load(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| OwnerLimits {
            user_id: UserId::from_uuid(row.user_id),
            weight: row.weight,
            max_running: row.max_running.map(i32::unsigned_abs),
            max_queued: row.max_queued.map(i32::unsigned_abs),
        })
        .collect())
}

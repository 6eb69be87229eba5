//! What operators write: levels, users, engines, assignments, keys.

use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Binary, Bool, Double, Integer, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use domain::{EngineId, KeyId, LevelId, UserEngineId, UserId, VersionId};
use protocol::operate::{
    Assign, Assigned, Assignee, Created, Deploy, Deployed, PutKey, PutLevel, PutUser, RotateKey, SetEngine,
};
use uuid::Uuid;

use crate::{error::StorageError, leader::write_as_leader, sql::sql};

#[derive(QueryableByName)]
struct MadeRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Bool)]
    created: bool,
}

#[derive(QueryableByName)]
struct IdRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

#[derive(QueryableByName)]
struct VersionRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Integer)]
    number: i32,
    #[diesel(sql_type = Text)]
    flow: String,
}

fn limit(value: Option<u32>) -> Option<i32> {
    value.map(|value| i32::try_from(value).unwrap_or(i32::MAX))
}

/// Creates or changes a level, found by its name.
///
/// # Errors
/// When the database refuses it.
pub async fn put_level(
    conn: &mut AsyncPgConnection,
    term: i64,
    level: &PutLevel,
) -> Result<Created<LevelId>, StorageError> {
    let row: MadeRow = write_as_leader!(conn, term, async {
        Ok(sql("INSERT INTO levels (id, name, weight, max_running, max_queued, requests_per_minute, max_priority) \
             VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET weight = excluded.weight, \
             max_running = excluded.max_running, max_queued = excluded.max_queued, \
             requests_per_minute = excluded.requests_per_minute, max_priority = excluded.max_priority \
             RETURNING id, xmax = 0 AS created")
        .bind::<SqlUuid, _>(LevelId::generate().uuid())
        .bind::<Text, _>(level.name.clone())
        .bind::<Double, _>(level.weight)
        .bind::<Nullable<Integer>, _>(limit(level.max_running))
        .bind::<Nullable<Integer>, _>(limit(level.max_queued))
        .bind::<Nullable<Integer>, _>(limit(level.requests_per_minute))
        .bind::<SmallInt, _>(level.max_priority.code())
        .get_result(conn)
        .await?)
    })?;
    Ok(Created { id: LevelId::from_uuid(row.id), created: row.created })
}

/// Creates or moves a user, found by their name, and gives them the engines of their level.
///
/// # Errors
/// [`StorageError::Conflict`] when there is no such level.
pub async fn put_user(
    conn: &mut AsyncPgConnection,
    term: i64,
    user: &PutUser,
) -> Result<Created<UserId>, StorageError> {
    write_as_leader!(conn, term, put_user_once(conn, user))
}

async fn put_user_once(conn: &AsyncPgConnection, user: &PutUser) -> Result<Created<UserId>, StorageError> {
    let row: Option<MadeRow> =
        sql("INSERT INTO users (id, name, level_id) SELECT ?, ?, id FROM levels WHERE name = ? \
         ON CONFLICT (name) DO UPDATE SET level_id = excluded.level_id RETURNING id, xmax = 0 AS created")
        .bind::<SqlUuid, _>(UserId::generate().uuid())
        .bind::<Text, _>(user.name.clone())
        .bind::<Text, _>(user.level.clone())
        .load(conn)
        .await?
        .pop();
    let row = row.ok_or_else(|| StorageError::Conflict(format!("there is no level `{}`", user.level)))?;
    let engines: Vec<IdRow> =
        sql("SELECT e.engine_id AS id FROM users u JOIN level_engines e ON e.level_id = u.level_id \
                                   WHERE u.id = ?")
        .bind::<SqlUuid, _>(row.id)
        .load(conn)
        .await?;
    let pairs = engines.into_iter().map(|engine| (row.id, engine.id)).collect();
    copies(conn, pairs).await?;
    Ok(Created { id: UserId::from_uuid(row.id), created: row.created })
}

/// Makes the copies of (user, engine) pairs that are not there yet; the ids of all of them.
async fn copies(conn: &AsyncPgConnection, pairs: Vec<(Uuid, Uuid)>) -> Result<Vec<UserEngineId>, StorageError> {
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let (users, engines): (Vec<Uuid>, Vec<Uuid>) = pairs.into_iter().unzip();
    let ids: Vec<Uuid> = users.iter().map(|_| UserEngineId::generate().uuid()).collect();
    sql("INSERT INTO user_engines (id, user_id, engine_id) SELECT * FROM unnest(?::uuid[], ?::uuid[], ?::uuid[]) ON CONFLICT DO NOTHING")
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<SqlUuid>, _>(users.clone())
        .bind::<Array<SqlUuid>, _>(engines.clone())
        .execute(conn)
        .await?;
    let rows: Vec<IdRow> = sql("SELECT c.id FROM unnest(?::uuid[], ?::uuid[]) AS n(user_id, engine_id) JOIN user_engines c USING (user_id, engine_id)")
        .bind::<Array<SqlUuid>, _>(users)
        .bind::<Array<SqlUuid>, _>(engines)
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|row| UserEngineId::from_uuid(row.id)).collect())
}

/// Deploys a flow as the next version of its engine. The flow it serves already is no new version.
///
/// # Errors
/// When the database refuses it.
pub async fn deploy(conn: &mut AsyncPgConnection, term: i64, flow: &Deploy) -> Result<Deployed, StorageError> {
    write_as_leader!(conn, term, deploy_once(conn, flow))
}

async fn deploy_once(conn: &AsyncPgConnection, flow: &Deploy) -> Result<Deployed, StorageError> {
    // The upsert locks the engine's row: two deployments of one engine take turns.
    let engine: IdRow = sql("INSERT INTO engines (id, name, title, description) VALUES (?, ?, ?, ?) \
         ON CONFLICT (name) DO UPDATE SET title = excluded.title, description = excluded.description RETURNING id")
    .bind::<SqlUuid, _>(EngineId::generate().uuid())
    .bind::<Text, _>(flow.name.clone())
    .bind::<Text, _>(flow.title.clone())
    .bind::<Text, _>(flow.description.clone())
    .get_result(conn)
    .await?;
    let current: Option<VersionRow> = sql("SELECT v.id, v.number, v.flow FROM engines e JOIN engine_versions v ON v.id = e.current_version_id WHERE e.id = ?")
        .bind::<SqlUuid, _>(engine.id)
        .load(conn)
        .await?
        .pop();
    let engine_id = EngineId::from_uuid(engine.id);
    if let Some(current) = current.filter(|current| current.flow == flow.flow.get()) {
        let version_id = VersionId::from_uuid(current.id);
        return Ok(Deployed { engine_id, version_id, number: current.number, created: false });
    }
    let version: VersionRow = sql("INSERT INTO engine_versions (id, engine_id, number, flow) \
         SELECT ?, n.engine_id, COALESCE((SELECT max(number) FROM engine_versions v WHERE v.engine_id = n.engine_id), 0) + 1, n.flow \
         FROM (SELECT ?::uuid AS engine_id, ?::text AS flow) n RETURNING id, number, flow")
    .bind::<SqlUuid, _>(VersionId::generate().uuid())
    .bind::<SqlUuid, _>(engine.id)
    .bind::<Text, _>(flow.flow.get().to_owned())
    .get_result(conn)
    .await?;
    sql("UPDATE engines SET current_version_id = ? WHERE id = ?")
        .bind::<SqlUuid, _>(version.id)
        .bind::<SqlUuid, _>(engine.id)
        .execute(conn)
        .await?;
    Ok(Deployed { engine_id, version_id: VersionId::from_uuid(version.id), number: version.number, created: true })
}

/// Switches an engine on or off; `None` when there is no such engine.
///
/// # Errors
/// When the database refuses it.
pub async fn set_engine(
    conn: &mut AsyncPgConnection,
    term: i64,
    set: &SetEngine,
) -> Result<Option<EngineId>, StorageError> {
    let id: Option<EngineId> = set.engine.parse().ok();
    let rows: Vec<IdRow> = write_as_leader!(conn, term, async {
        Ok(sql("UPDATE engines SET enabled = ? WHERE id = ? OR name = ? RETURNING id")
            .bind::<Bool, _>(set.enabled)
            .bind::<Nullable<SqlUuid>, _>(id.map(EngineId::uuid))
            .bind::<Text, _>(set.engine.clone())
            .load(conn)
            .await?)
    })?;
    Ok(rows.first().map(|row| EngineId::from_uuid(row.id)))
}

/// Assigns an engine to a user, or to a level and all of its members.
///
/// # Errors
/// [`StorageError::Conflict`] when the engine, the user or the level is not there.
pub async fn assign(conn: &mut AsyncPgConnection, term: i64, assign: &Assign) -> Result<Assigned, StorageError> {
    write_as_leader!(conn, term, assign_once(conn, assign))
}

async fn assign_once(conn: &AsyncPgConnection, assign: &Assign) -> Result<Assigned, StorageError> {
    let engine = assign.engine_id.uuid();
    let users = match assign.to {
        Assignee::User(user) => vec![user.uuid()],
        Assignee::Level(level) => {
            sql("INSERT INTO level_engines (level_id, engine_id) VALUES (?, ?) ON CONFLICT DO NOTHING")
                .bind::<SqlUuid, _>(level.uuid())
                .bind::<SqlUuid, _>(engine)
                .execute(conn)
                .await?;
            let members: Vec<IdRow> =
                sql("SELECT id FROM users WHERE level_id = ?").bind::<SqlUuid, _>(level.uuid()).load(conn).await?;
            members.into_iter().map(|member| member.id).collect()
        }
    };
    let pairs = users.into_iter().map(|user| (user, engine)).collect();
    Ok(Assigned { user_engines: copies(conn, pairs).await? })
}

/// Stores a new key.
///
/// # Errors
/// [`StorageError::Conflict`] when the owner or their copy is not there.
pub async fn put_key(conn: &mut AsyncPgConnection, term: i64, key: &PutKey) -> Result<Created<KeyId>, StorageError> {
    let id = KeyId::generate();
    let hash = decode(&key.hash)?;
    let stored = write_as_leader!(conn, term, async {
        // A key may only be bound to a copy of its own owner.
        Ok(sql("INSERT INTO api_keys (id, public_id, hash, last_four, name, user_id, user_engine_id, origins, expires_at) \
             SELECT ?, ?, ?, ?, ?, u.id, n.copy, ?, ? FROM (SELECT ?::uuid AS user_id, ?::uuid AS copy) n JOIN users u ON u.id = n.user_id \
             WHERE n.copy IS NULL OR EXISTS (SELECT FROM user_engines c WHERE c.id = n.copy AND c.user_id = u.id)")
        .bind::<SqlUuid, _>(id.uuid())
        .bind::<Text, _>(key.public_id.clone())
        .bind::<Binary, _>(hash.clone())
        .bind::<Text, _>(key.last_four.clone())
        .bind::<Text, _>(key.name.clone())
        .bind::<Array<Text>, _>(key.origins.clone())
        .bind::<Nullable<Timestamptz>, _>(key.expires_at)
        .bind::<SqlUuid, _>(key.user_id.uuid())
        .bind::<Nullable<SqlUuid>, _>(key.user_engine_id.map(UserEngineId::uuid))
        .execute(conn)
        .await?)
    })?;
    if stored == 0 {
        return Err(StorageError::Conflict("the key's owner or their engine is not there".to_owned()));
    }
    Ok(Created { id, created: true })
}

fn decode(hash: &str) -> Result<Vec<u8>, StorageError> {
    let bytes: Option<Vec<u8>> = (0..hash.len())
        .step_by(2)
        .map(|at| hash.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect();
    bytes.filter(|bytes| bytes.len() == 32).ok_or_else(|| StorageError::Conflict("a key's hash is 32 bytes".to_owned()))
}

/// Replaces a key by one with the same owner, copy, origins and expiry; the old one lives on for its grace. `None` when there is no such living key.
///
/// # Errors
/// When the database refuses it.
pub async fn rotate_key(
    conn: &mut AsyncPgConnection,
    term: i64,
    rotate: &RotateKey,
) -> Result<Option<Created<KeyId>>, StorageError> {
    let id = KeyId::generate();
    let hash = decode(&rotate.hash)?;
    write_as_leader!(conn, term, async {
        let made: Vec<IdRow> = sql("WITH old AS (SELECT k.* FROM api_keys k, (SELECT ?::uuid AS id, ?::uuid AS user_id) s WHERE k.id = s.id \
             AND (s.user_id IS NULL OR k.user_id = s.user_id) AND k.revoked_at IS NULL AND k.replaced_by IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()) FOR UPDATE) \
             INSERT INTO api_keys (id, public_id, hash, last_four, name, user_id, user_engine_id, origins, expires_at) \
             SELECT ?, ?, ?, ?, name, user_id, user_engine_id, origins, expires_at FROM old RETURNING id")
        .bind::<SqlUuid, _>(rotate.key_id.uuid())
        .bind::<Nullable<SqlUuid>, _>(rotate.user_id.map(UserId::uuid))
        .bind::<SqlUuid, _>(id.uuid())
        .bind::<Text, _>(rotate.public_id.clone())
        .bind::<Binary, _>(hash.clone())
        .bind::<Text, _>(rotate.last_four.clone())
        .load(conn)
        .await?;
        if made.is_empty() {
            not_rotated(conn, rotate).await
        } else {
            sql("UPDATE api_keys SET replaced_by = ?, expires_at = LEAST(expires_at, now() + make_interval(secs => ?::double precision / 1000)) WHERE id = ?")
                .bind::<SqlUuid, _>(id.uuid())
                .bind::<BigInt, _>(i64::try_from(rotate.grace_ms).unwrap_or(i64::MAX))
                .bind::<SqlUuid, _>(rotate.key_id.uuid())
                .execute(conn)
                .await?;
            Ok(Some(Created { id, created: true }))
        }
    })
}

/// Why there was nothing to rotate: a key that has a successor is not rotated again, because it lives for its grace only.
async fn not_rotated(conn: &AsyncPgConnection, rotate: &RotateKey) -> Result<Option<Created<KeyId>>, StorageError> {
    let successor: Vec<IdRow> =
        sql("SELECT k.replaced_by AS id FROM api_keys k, (SELECT ?::uuid AS id, ?::uuid AS user_id) s \
         WHERE k.id = s.id AND (s.user_id IS NULL OR k.user_id = s.user_id) AND k.replaced_by IS NOT NULL")
        .bind::<SqlUuid, _>(rotate.key_id.uuid())
        .bind::<Nullable<SqlUuid>, _>(rotate.user_id.map(UserId::uuid))
        .load(conn)
        .await?;
    match successor.first() {
        Some(row) => {
            let successor = KeyId::from_uuid(row.id);
            Err(StorageError::Conflict(format!("the key was rotated already: {successor} follows it")))
        }
        None => Ok(None),
    }
}

/// Ends a key at once; whether it lived.
///
/// # Errors
/// When the database refuses it.
pub async fn revoke_key(conn: &mut AsyncPgConnection, term: i64, key: KeyId) -> Result<bool, StorageError> {
    let ended = write_as_leader!(conn, term, async {
        Ok(sql("UPDATE api_keys SET revoked_at = now() WHERE id = ? AND revoked_at IS NULL")
            .bind::<SqlUuid, _>(key.uuid())
            .execute(conn)
            .await?)
    })?;
    Ok(ended > 0)
}

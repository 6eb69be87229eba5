//! API keys: made here, shown once; only their hash goes further.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use domain::{
    KeyId, UserEngineId, UserId,
    key::{ApiKey, KeyMode},
};
use protocol::operate::{Created, KEYS_PATH, PutKey, REVOKE_PATH, ROTATE_PATH, RevokeKey, RotateKey};
use rand::RngExt as _;
use serde::Deserialize;
use serde_json::json;
use service::{Problem, ProblemCode};

use crate::{
    listener::Admin,
    reply::ask,
    token::{Operator, Role},
};

/// The default and the longest grace of a rotated key.
const GRACE: Duration = Duration::from_secs(24 * 3600);
const GRACE_AT_MOST: Duration = Duration::from_secs(7 * 24 * 3600);

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .route("/keys", web::post().to(create))
        .route("/keys/{id}/rotate", web::post().to(rotate))
        .route("/keys/{id}/revoke", web::post().to(revoke));
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Create {
    user_id: UserId,
    #[serde(default)]
    user_engine_id: Option<UserEngineId>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    test: bool,
    #[serde(default)]
    origins: Vec<String>,
    #[serde(default)]
    expires_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rotate {
    #[serde(default)]
    grace_ms: Option<u64>,
}

/// From the operating system's random source, by way of a generator that is fit for keys.
fn fresh(mode: KeyMode) -> ApiKey {
    let mut random = rand::rng();
    ApiKey::from_random(mode, || random.random_range(0..62))
}

async fn create(admin: web::Data<Admin>, operator: Operator, body: web::Json<Create>) -> Result<HttpResponse, Problem> {
    operator.require(Role::Admin, "create key")?;
    let body = body.into_inner();
    let key = fresh(if body.test { KeyMode::Test } else { KeyMode::Live });
    let put = PutKey {
        user_id: body.user_id,
        user_engine_id: body.user_engine_id,
        name: body.name,
        public_id: key.id().to_owned(),
        hash: hex(&key.hash(&admin.key_pepper)),
        last_four: key.last_four().to_owned(),
        test: body.test,
        origins: body.origins,
        expires_at: body.expires_at,
    };
    let made: Created<KeyId> = ask(&admin, KEYS_PATH, &put).await?;
    Ok(HttpResponse::Created().json(json!({ "id": made.id, "key": key.reveal() })))
}

async fn rotate(
    admin: web::Data<Admin>,
    operator: Operator,
    id: web::Path<String>,
    body: web::Json<Rotate>,
) -> Result<HttpResponse, Problem> {
    operator.require(Role::Admin, "rotate key")?;
    let grace = body.grace_ms.map_or(GRACE, Duration::from_millis);
    if grace > GRACE_AT_MOST {
        return Err(Problem::new(ProblemCode::InvalidInput).field("/graceMs", "out_of_range", "at most seven days"));
    }
    let key = fresh(KeyMode::Live);
    let rotate = RotateKey {
        key_id: key_id(&id)?,
        user_id: None,
        public_id: key.id().to_owned(),
        hash: hex(&key.hash(&admin.key_pepper)),
        last_four: key.last_four().to_owned(),
        grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
    };
    let made: Option<Created<KeyId>> = ask(&admin, ROTATE_PATH, &rotate).await?;
    let made = made.ok_or_else(no_such_key)?;
    Ok(HttpResponse::Created().json(json!({ "id": made.id, "key": key.reveal() })))
}

async fn revoke(admin: web::Data<Admin>, operator: Operator, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    operator.require(Role::Admin, "revoke key")?;
    let lived: bool = ask(&admin, REVOKE_PATH, &RevokeKey { key_id: key_id(&id)? }).await?;
    if lived { Ok(HttpResponse::NoContent().finish()) } else { Err(no_such_key()) }
}

fn key_id(text: &str) -> Result<KeyId, Problem> {
    text.parse().map_err(|_malformed| no_such_key())
}

fn no_such_key() -> Problem {
    Problem::new(ProblemCode::NotFound).detail("there is no such living key")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

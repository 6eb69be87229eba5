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
use service::{Problem, ProblemCode, edge::resource};

use crate::{
    audit::Changed,
    listener::Admin,
    reply::ask,
    text,
    token::{Operator, Role},
};

/// The default and the longest grace of a rotated key.
const GRACE: Duration = Duration::from_secs(24 * 3600);
const GRACE_AT_MOST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Origins of one key.
const ORIGINS_AT_MOST: usize = 100;

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(resource("/keys", "POST").route(web::post().to(create)))
        .service(resource("/keys/{id}/rotate", "POST").route(web::post().to(rotate)))
        .service(resource("/keys/{id}/revoke", "POST").route(web::post().to(revoke)));
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Create {
    user_id: UserId,
    #[serde(default)]
    user_engine_id: Option<UserEngineId>,
    #[serde(default)]
    name: String,
    /// Only refused with a reason: a test key would run on paid models today.
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

impl Create {
    fn check(&self, now: DateTime<Utc>) -> Result<(), Problem> {
        if self.test {
            return Err(text::invalid("/test", "unsupported", "there are no test keys yet: every execution is paid"));
        }
        text::check("/name", &self.name, 200)?;
        if self.origins.len() > ORIGINS_AT_MOST {
            return Err(text::invalid("/origins", "too_many", format!("at most {ORIGINS_AT_MOST}")));
        }
        for (at, origin) in self.origins.iter().enumerate() {
            let pointer = format!("/origins/{at}");
            text::name(&pointer, origin)?;
            let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            if host.is_none_or(|host| host.is_empty() || host.contains(['/', '?', '#', ' ', '*'])) {
                return Err(text::invalid(&pointer, "invalid", "an origin is `https://host` or `https://host:port`"));
            }
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            return Err(text::invalid("/expiresAt", "out_of_range", "is over already"));
        }
        Ok(())
    }
}

/// From the operating system's random source, by way of a generator that is fit for keys.
fn fresh() -> ApiKey {
    let mut random = rand::rng();
    ApiKey::from_random(KeyMode::Live, || random.random_range(0..62))
}

async fn create(admin: web::Data<Admin>, operator: Operator, body: web::Json<Create>) -> Result<HttpResponse, Problem> {
    let body = body.into_inner();
    let owner = body.user_id.to_string();
    let work = async {
        body.check(admin.clock.now())?;
        let key = fresh();
        let put = PutKey {
            user_id: body.user_id,
            user_engine_id: body.user_engine_id,
            name: body.name,
            public_id: key.id().to_owned(),
            hash: hex(&key.hash(&admin.key_pepper)),
            last_four: key.last_four().to_owned(),
            origins: body.origins,
            expires_at: body.expires_at,
        };
        let made: Created<KeyId> = ask(&admin, KEYS_PATH, &put).await?;
        Ok(shown_once(&made, &key))
    };
    operator.change(Role::Admin, "create key", &owner, work).await
}

fn shown_once(made: &Created<KeyId>, key: &ApiKey) -> Changed {
    Changed::new(made.id, HttpResponse::Created().json(json!({ "id": made.id, "key": key.reveal() })))
}

async fn rotate(
    admin: web::Data<Admin>,
    operator: Operator,
    id: web::Path<String>,
    body: web::Json<Rotate>,
) -> Result<HttpResponse, Problem> {
    let work = async {
        let grace = body.grace_ms.map_or(GRACE, Duration::from_millis);
        if grace > GRACE_AT_MOST {
            return Err(text::invalid("/graceMs", "out_of_range", "at most seven days"));
        }
        let key = fresh();
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
        let changed = shown_once(&made, &key);
        Ok(Changed { object: format!("{} {}", rotate.key_id, made.id), ..changed })
    };
    operator.change(Role::Admin, "rotate key", &id, work).await
}

async fn revoke(admin: web::Data<Admin>, operator: Operator, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let work = async {
        let key_id = key_id(&id)?;
        let lived: bool = ask(&admin, REVOKE_PATH, &RevokeKey { key_id }).await?;
        if lived { Ok(Changed::new(key_id, HttpResponse::NoContent().finish())) } else { Err(no_such_key()) }
    };
    operator.change(Role::Admin, "revoke key", &id, work).await
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

//! Who the key belongs to, and what its level allows.

use actix_web::HttpResponse;
use serde_json::json;

use crate::{
    auth::Caller,
    routes::{self, Entry},
};

pub(crate) fn routes() -> Vec<Entry> {
    vec![routes::get("/v1/me", me)]
}

async fn me(caller: Caller) -> HttpResponse {
    HttpResponse::Ok().json(json!({
        "userId": caller.user_id,
        "name": caller.user_name,
        "keyId": caller.key_id,
        "userEngineId": caller.user_engine_id,
        "level": {
            "levelId": caller.level.level_id,
            "name": caller.level.name,
            "maxRunning": caller.level.max_running,
            "maxQueued": caller.level.max_queued,
            "requestsPerMinute": caller.level.requests_per_minute,
            "maxPriority": caller.level.max_priority,
        },
    }))
}

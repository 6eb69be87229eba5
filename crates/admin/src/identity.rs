//! Levels and users.

use actix_web::{HttpResponse, web};
use domain::{LevelId, Priority, UserId};
use protocol::operate::{Created, LEVELS_PATH, PutLevel, PutUser, USERS_PATH};
use serde::Deserialize;
use service::{Problem, edge::resource};

use crate::{
    audit::Changed,
    listener::Admin,
    reply::ask,
    text,
    token::{Operator, Role},
};

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(resource("/levels", "POST").route(web::post().to(level)))
        .service(resource("/users", "POST").route(web::post().to(user)));
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Level {
    name: String,
    weight: f64,
    #[serde(default)]
    max_running: Option<u32>,
    #[serde(default)]
    max_queued: Option<u32>,
    #[serde(default)]
    requests_per_minute: Option<u32>,
    max_priority: Priority,
}

impl Level {
    fn check(&self) -> Result<(), Problem> {
        text::name("/name", &self.name)?;
        if !(self.weight.is_finite() && self.weight > 0.0) {
            return Err(text::invalid("/weight", "out_of_range", "must be above 0"));
        }
        for (pointer, limit) in [
            ("/maxRunning", self.max_running),
            ("/maxQueued", self.max_queued),
            ("/requestsPerMinute", self.requests_per_minute),
        ] {
            if limit == Some(0) {
                return Err(text::invalid(pointer, "out_of_range", "must be above 0"));
            }
        }
        Ok(())
    }
}

async fn level(admin: web::Data<Admin>, operator: Operator, level: web::Json<Level>) -> Result<HttpResponse, Problem> {
    let work = async {
        level.check()?;
        let put = PutLevel {
            name: level.name.clone(),
            weight: level.weight,
            max_running: level.max_running,
            max_queued: level.max_queued,
            requests_per_minute: level.requests_per_minute,
            max_priority: level.max_priority,
        };
        let made: Created<LevelId> = ask(&admin, LEVELS_PATH, &put).await?;
        Ok(Changed::new(made.id, HttpResponse::Ok().json(&made)))
    };
    operator.change(Role::Admin, "put level", &level.name, work).await
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct User {
    name: String,
    level: String,
}

async fn user(admin: web::Data<Admin>, operator: Operator, user: web::Json<User>) -> Result<HttpResponse, Problem> {
    let work = async {
        text::name("/name", &user.name)?;
        text::name("/level", &user.level)?;
        let put = PutUser { name: user.name.clone(), level: user.level.clone() };
        let made: Created<UserId> = ask(&admin, USERS_PATH, &put).await?;
        Ok(Changed::new(made.id, HttpResponse::Ok().json(&made)))
    };
    operator.change(Role::Admin, "put user", &user.name, work).await
}

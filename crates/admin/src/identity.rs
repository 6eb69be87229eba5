//! Levels and users.

use actix_web::{HttpResponse, web};
use domain::{LevelId, UserId};
use protocol::operate::{Created, LEVELS_PATH, PutLevel, PutUser, USERS_PATH};
use service::{Problem, ProblemCode};

use crate::{
    listener::Admin,
    reply::ask,
    token::{Operator, Role},
};

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config.route("/levels", web::post().to(level)).route("/users", web::post().to(user));
}

async fn level(
    admin: web::Data<Admin>,
    operator: Operator,
    level: web::Json<PutLevel>,
) -> Result<HttpResponse, Problem> {
    operator.require(Role::Admin, "put level")?;
    named(&level.name)?;
    if !(level.weight.is_finite() && level.weight > 0.0) {
        return Err(Problem::new(ProblemCode::InvalidInput).field("/weight", "out_of_range", "must be above 0"));
    }
    for (pointer, limit) in [
        ("/maxRunning", level.max_running),
        ("/maxQueued", level.max_queued),
        ("/requestsPerMinute", level.requests_per_minute),
    ] {
        if limit == Some(0) {
            return Err(Problem::new(ProblemCode::InvalidInput).field(pointer, "out_of_range", "must be above 0"));
        }
    }
    let made: Created<LevelId> = ask(&admin, LEVELS_PATH, &*level).await?;
    Ok(HttpResponse::Ok().json(made))
}

async fn user(admin: web::Data<Admin>, operator: Operator, user: web::Json<PutUser>) -> Result<HttpResponse, Problem> {
    operator.require(Role::Admin, "put user")?;
    named(&user.name)?;
    let made: Created<UserId> = ask(&admin, USERS_PATH, &*user).await?;
    Ok(HttpResponse::Ok().json(made))
}

fn named(name: &str) -> Result<(), Problem> {
    if name.is_empty() || name.len() > 200 || name.contains('\0') {
        return Err(Problem::new(ProblemCode::InvalidInput).field(
            "/name",
            "invalid",
            "1 to 200 bytes, without U+0000",
        ));
    }
    Ok(())
}

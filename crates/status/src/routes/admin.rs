//! What operators write, by way of the gateway's admin listener.

use std::{collections::BTreeMap, sync::Arc};

use actix_web::web;
use domain::{EngineId, KeyId, LevelId, UserId};
use protocol::{
    control::Availability,
    operate::{
        Assign, Assigned, Created, Deploy, Deployed, ExecutorView, FindModels, Invariants, PutKey, PutLevel, PutUser,
        RevokeKey, RotateKey, SetEngine,
    },
};

use super::{RouteError, leading};
use crate::{service::Status, upkeep};

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .route("/admin/levels", web::post().to(level))
        .route("/admin/users", web::post().to(user))
        .route("/admin/engines/deploy", web::post().to(deploy))
        .route("/admin/engines/set", web::post().to(set_engine))
        .route("/admin/models", web::post().to(models))
        .route("/admin/assignments", web::post().to(assign))
        .route("/admin/keys", web::post().to(key))
        .route("/admin/keys/rotate", web::post().to(rotate))
        .route("/admin/keys/revoke", web::post().to(revoke))
        .route("/admin/executors", web::post().to(executors))
        .route("/admin/invariants", web::post().to(invariants));
}

async fn level(
    status: web::Data<Status>,
    request: web::Json<PutLevel>,
) -> Result<web::Json<Created<LevelId>>, RouteError> {
    let term = leading(&status).await?;
    let mut conn = status.connection().await?;
    let made = storage::admin::put_level(&mut conn, term.number, &request).await?;
    term.owners.lock().clear();
    Ok(web::Json(made))
}

async fn user(
    status: web::Data<Status>,
    request: web::Json<PutUser>,
) -> Result<web::Json<Created<UserId>>, RouteError> {
    let term = leading(&status).await?;
    let mut conn = status.connection().await?;
    let made = storage::admin::put_user(&mut conn, term.number, &request).await?;
    term.owners.lock().clear();
    Ok(web::Json(made))
}

async fn deploy(status: web::Data<Status>, request: web::Json<Deploy>) -> Result<web::Json<Deployed>, RouteError> {
    let term = leading(&status).await?;
    let mut conn = status.connection().await?;
    Ok(web::Json(storage::admin::deploy(&mut conn, term.number, &request).await?))
}

async fn models(
    status: web::Data<Status>,
    request: web::Json<FindModels>,
) -> Result<web::Json<BTreeMap<String, Availability>>, RouteError> {
    let mut conn = status.connection().await?;
    let executors = storage::executors::alive(&mut conn).await?;
    drop(conn);
    Ok(web::Json(crate::models::find(&status, request.into_inner().models, executors).await))
}

async fn set_engine(
    status: web::Data<Status>,
    request: web::Json<SetEngine>,
) -> Result<web::Json<Option<EngineId>>, RouteError> {
    let term = leading(&status).await?;
    let mut conn = status.connection().await?;
    Ok(web::Json(storage::admin::set_engine(&mut conn, term.number, &request).await?))
}

async fn assign(status: web::Data<Status>, request: web::Json<Assign>) -> Result<web::Json<Assigned>, RouteError> {
    let term = leading(&status).await?;
    let mut conn = status.connection().await?;
    Ok(web::Json(storage::admin::assign(&mut conn, term.number, &request).await?))
}

async fn key(status: web::Data<Status>, request: web::Json<PutKey>) -> Result<web::Json<Created<KeyId>>, RouteError> {
    let term = leading(&status).await?;
    let mut conn = status.connection().await?;
    Ok(web::Json(storage::admin::put_key(&mut conn, term.number, &request).await?))
}

async fn rotate(
    status: web::Data<Status>,
    request: web::Json<RotateKey>,
) -> Result<web::Json<Option<Created<KeyId>>>, RouteError> {
    let term = leading(&status).await?;
    let mut conn = status.connection().await?;
    Ok(web::Json(storage::admin::rotate_key(&mut conn, term.number, &request).await?))
}

async fn revoke(status: web::Data<Status>, request: web::Json<RevokeKey>) -> Result<web::Json<bool>, RouteError> {
    let term = leading(&status).await?;
    let mut conn = status.connection().await?;
    Ok(web::Json(storage::admin::revoke_key(&mut conn, term.number, request.key_id).await?))
}

async fn executors(status: web::Data<Status>) -> Result<web::Json<Vec<ExecutorView>>, RouteError> {
    let mut conn = status.connection().await?;
    Ok(web::Json(storage::executors::list(&mut conn).await?))
}

/// What SQL finds, and what the leader finds when it compares its queue with the ledger.
async fn invariants(status: web::Data<Status>) -> Result<web::Json<Invariants>, RouteError> {
    let term = leading(&status).await?;
    let mut conn = status.connection().await?;
    let mut violations = storage::invariants::violations(&mut conn).await?;
    drop(conn);
    violations.extend(upkeep::compare(&Arc::clone(&status), &term, false).await?);
    Ok(web::Json(Invariants { violations }))
}

//! Who asks, and which engine they mean. Any replica answers.

use actix_web::web;
use protocol::identity::{Authenticate, Authenticated, ListEngines, Resolve, ResolvedEngine};
use subtle::ConstantTimeEq as _;

use super::RouteError;
use crate::service::Status;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .route("/keys/authenticate", web::post().to(authenticate))
        .route("/engines/resolve", web::post().to(resolve))
        .route("/engines/list", web::post().to(list));
}

/// An unknown id is compared too, so that it takes as long as a wrong secret.
async fn authenticate(
    status: web::Data<Status>,
    request: web::Json<Authenticate>,
) -> Result<web::Json<Authenticated>, RouteError> {
    let mut conn = status.connection().await?;
    let stored = storage::identity::key(&mut conn, &request.public_id).await?;
    let given = hex::decode(&request.hash).unwrap_or_default();
    let expected = stored.as_ref().map_or_else(|| vec![0; 32], |key| key.hash.clone());
    let equal: bool = expected.ct_eq(&given).into();
    Ok(web::Json(match stored {
        Some(key) if equal && key.revoked => Authenticated::Unknown,
        Some(key) if equal && key.expired => Authenticated::Expired,
        Some(key) if equal => Authenticated::Known(Box::new(key.principal)),
        _ => Authenticated::Unknown,
    }))
}

async fn resolve(
    status: web::Data<Status>,
    request: web::Json<Resolve>,
) -> Result<web::Json<Option<ResolvedEngine>>, RouteError> {
    let mut conn = status.connection().await?;
    Ok(web::Json(storage::identity::resolve(&mut conn, &request).await?))
}

async fn list(
    status: web::Data<Status>,
    request: web::Json<ListEngines>,
) -> Result<web::Json<Vec<ResolvedEngine>>, RouteError> {
    let mut conn = status.connection().await?;
    Ok(web::Json(storage::identity::engines(&mut conn, &request).await?))
}

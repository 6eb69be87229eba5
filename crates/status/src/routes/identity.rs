//! Who asks, and which engine they mean. Any replica answers.

use actix_web::web;
use domain::KeyId;
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
    drop(conn);
    let given = hex::decode(&request.hash).unwrap_or_default();
    let expected = stored.as_ref().map_or_else(|| vec![0; 32], |key| key.hash.clone());
    let equal: bool = expected.ct_eq(&given).into();
    Ok(web::Json(match stored {
        Some(key) if equal && key.revoked => Authenticated::Unknown,
        Some(key) if equal && key.expired => Authenticated::Expired,
        Some(key) if equal => {
            if !key.used_lately {
                note_use(&status, key.principal.key_id);
            }
            Authenticated::Known(Box::new(key.principal))
        }
        _ => Authenticated::Unknown,
    }))
}

/// Beside the answer, and by the leader alone: a standby only reads, and an answer never waits for a write.
fn note_use(status: &web::Data<Status>, key: KeyId) {
    if status.term.load().is_none() {
        return;
    }
    let status = status.clone();
    status.shutdown.clone().spawn(async move {
        let noted = async {
            let mut conn = status.connection().await?;
            storage::identity::touch(&mut conn, key).await
        };
        if let Err(error) = noted.await {
            tracing::warn!(error = %service::chain(&error), "the use of a key is not noted");
        }
    });
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

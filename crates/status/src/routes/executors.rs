//! What executors say: claims, reports, renewals, sessions.

use std::{sync::Arc, time::Duration};

use actix_web::{HttpResponse, web};
use bytes::Bytes;
use domain::{ExecutionId, ExecutorId};
use protocol::{
    claim::{ClaimRequest, ClaimResponse, Renewal, RenewalResponse},
    live::LiveExecution,
    read::{Found, ReadUnits, ReadVersion, Units, VersionView},
    report::{ReportRequest, ReportResponse, Standing},
};
use serde::Deserialize;
use storage::claims::Asked;
use tokio::time::Instant;

use super::{RouteError, leading};
use crate::{service::Status, sessions::Session, settle};

/// A session writes this often: a dead peer is noticed at the second write.
const BEAT: Duration = Duration::from_millis(100);

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .route("/claims", web::post().to(claim))
        .route("/reports", web::post().to(report))
        .route("/renewals", web::post().to(renew))
        .route("/session", web::get().to(session))
        .route("/units", web::post().to(units))
        .route("/versions/get", web::post().to(version));
}

/// Grants what is released, and again what this very claim got before.
async fn claim(
    status: web::Data<Status>,
    request: web::Json<ClaimRequest>,
) -> Result<web::Json<ClaimResponse>, RouteError> {
    let term = leading(&status).await?;
    let executor = request.executor_id;
    let (allowed, refused): (Vec<_>, Vec<_>) = {
        let schedule = term.schedule.lock();
        request.claims.iter().map(|claim| Asked { executor, claim: *claim }).partition(|asked| {
            let id = asked.claim.execution_id;
            schedule.is_released(id) || term.leases.is_granted(id, executor, asked.claim.claim_id)
        })
    };
    let mut response = ClaimResponse {
        grants: Vec::new(),
        refused: refused.into_iter().map(|asked| asked.claim.execution_id).collect(),
    };
    if !allowed.is_empty() {
        let verdicts = term.writers.claims.write(allowed.clone()).await?;
        for (Asked { claim, .. }, verdict) in allowed.into_iter().zip(verdicts) {
            let id = claim.execution_id;
            if let Ok(grant) = verdict {
                if !term.schedule.lock().claimed(id) {
                    term.doubts.doubt(id);
                }
                term.leases.hold(id, grant.epoch, executor, Some(claim.claim_id), false);
                response.grants.push(grant);
            } else {
                // The ledger knows better: it is another's, or not queued any more.
                term.doubts.doubt(id);
                response.refused.push(id);
            }
        }
    }
    status.metrics.claims.inc_by(response.grants.len() as u64);
    status.metrics.claims_refused.inc_by(response.refused.len() as u64);
    term.released.notify_one();
    Ok(web::Json(response))
}

/// Takes reports: committed, then shown, then answered.
async fn report(
    status: web::Data<Status>,
    request: web::Json<ReportRequest>,
) -> Result<web::Json<ReportResponse>, RouteError> {
    let term = leading(&status).await?;
    let reported = term.writers.reports.write(request.into_inner()).await.map_err(RouteError::of_report)?;
    status.metrics.reports.inc_by(reported.len() as u64);
    let mut response = ReportResponse::default();
    let mut shown: Vec<LiveExecution> = Vec::new();
    for one in reported {
        let id: ExecutionId = one.verdict.execution_id;
        let watched = status.live.is_watched(id);
        if watched && !one.appended.is_empty() {
            shown.push(LiveExecution { execution_id: id, events: one.appended });
        }
        if let Some(ended) = one.ended {
            let moved = settle::Moved {
                id,
                epoch: one.verdict.epoch,
                state: ended.state,
                eligible_at: ended.eligible_at,
                slot_ms: Some(ended.held_ms),
                events: &[],
            };
            settle::moved(&status, &term, &moved);
        } else if matches!(one.verdict.standing, Standing::Over | Standing::Lost) {
            // Its end was written before; the answer may be lost.
            term.doubts.doubt(id);
        } else if watched {
            response.watched.push(id);
        }
        if one.verdict.standing == Standing::Cancelling {
            term.leases.cancelling(id);
        }
        response.verdicts.push(one.verdict);
    }
    status.live.publish(shown);
    Ok(web::Json(response))
}

/// Renews the lease of an executor and tells it what it lost or has to stop.
async fn renew(
    status: web::Data<Status>,
    renewal: web::Json<Renewal>,
) -> Result<web::Json<RenewalResponse>, RouteError> {
    let arrived = Instant::now();
    let term = leading(&status).await?;
    let mut conn = status.connection().await?;
    let renewed = storage::executors::renew(&mut conn, term.number, &renewal).await?;
    drop(conn);
    let (mut answer, losses) = term.leases.renewed(&renewal, arrived);
    answer.drain = renewed.drain_requested;
    term.released.notify_one();
    if !losses.is_empty() {
        let cause = if renewal.goodbye { settle::Cause::GivenBack } else { settle::Cause::Lost };
        tracing::warn!(executor.id = %renewal.executor_id, count = losses.len(), ?cause, "an executor does not list what it holds");
        let taken = settle::take_back(&status, &term, losses, cause);
        // Who leaves waits until nothing is left; who stays has to renew.
        if renewal.goodbye {
            taken.await;
        }
    }
    Ok(web::Json(answer))
}

#[derive(Deserialize)]
struct SessionQuery {
    executor: ExecutorId,
}

/// A response that lasts as long as both processes do.
async fn session(status: web::Data<Status>, query: web::Query<SessionQuery>) -> Result<HttpResponse, RouteError> {
    let term = leading(&status).await?;
    let session = Session::open(Arc::clone(&status), term, query.executor);
    let beats = futures::stream::unfold(session, |session| async move {
        tokio::select! {
            () = session.over() => None,
            () = tokio::time::sleep(BEAT) => Some((Ok::<_, actix_web::Error>(Bytes::from_static(b".")), session)),
        }
    });
    Ok(HttpResponse::Ok().content_type("text/plain").streaming(beats))
}

async fn units(status: web::Data<Status>, request: web::Json<ReadUnits>) -> Result<web::Json<Units>, RouteError> {
    let mut conn = status.connection().await?;
    Ok(web::Json(Units { units: storage::units::outputs(&mut conn, request.execution_id).await? }))
}

async fn version(
    status: web::Data<Status>,
    request: web::Json<ReadVersion>,
) -> Result<web::Json<Found<VersionView>>, RouteError> {
    let mut conn = status.connection().await?;
    let version = storage::versions::get(&mut conn, request.version_id).await?;
    Ok(web::Json(version.map_or(Found::Missing, Found::Found)))
}

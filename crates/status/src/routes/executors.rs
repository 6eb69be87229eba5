//! What executors say: claims, reports, renewals, sessions.

use std::{sync::Arc, time::Duration};

use actix_web::{HttpResponse, web};
use bytes::Bytes;
use domain::{ExecutionId, ExecutorId};
use protocol::{
    claim::{ClaimRequest, ClaimResponse, Grant, Renewal, RenewalResponse},
    live::LiveExecution,
    read::{Found, ReadUnits, ReadVersion, Units, VersionView},
    report::{ReportRequest, ReportResponse, Standing},
};
use serde::Deserialize;
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
    let (allowed, mut refused): (Vec<_>, Vec<_>) = {
        let schedule = term.schedule.lock();
        request.claims.iter().copied().partition(|claim| {
            schedule.is_released(claim.execution_id)
                || term.leases.is_granted(claim.execution_id, executor, claim.claim_id)
        })
    };
    let mut grants: Vec<Grant> = Vec::new();
    if !allowed.is_empty() {
        let mut conn = status.connection().await?;
        let answers = storage::claims::claim(&mut conn, term.number, executor, &allowed, status.now()).await?;
        drop(conn);
        status.failpoint.reach("claim.after_commit");
        for (claim, answer) in allowed.into_iter().zip(answers) {
            match answer {
                Some(grant) => {
                    if !term.schedule.lock().claimed(claim.execution_id) {
                        term.doubts.doubt(claim.execution_id);
                    }
                    term.leases.hold(claim.execution_id, grant.epoch, executor, Some(claim.claim_id), false);
                    grants.push(grant);
                }
                // The ledger knows better: it is not queued any more.
                None => {
                    term.doubts.doubt(claim.execution_id);
                    refused.push(claim);
                }
            }
        }
    }
    status.metrics.claims.inc_by(grants.len() as u64);
    status.metrics.claims_refused.inc_by(refused.len() as u64);
    term.released.notify_one();
    Ok(web::Json(ClaimResponse { grants, refused: refused.into_iter().map(|claim| claim.execution_id).collect() }))
}

/// Takes reports: committed, then shown, then answered.
async fn report(
    status: web::Data<Status>,
    request: web::Json<ReportRequest>,
) -> Result<web::Json<ReportResponse>, RouteError> {
    let term = leading(&status).await?;
    let timer = status.metrics.report_seconds.start_timer();
    status.failpoint.reach("report.before_commit");
    if request.reports.iter().any(|report| report.finish.is_some()) {
        status.failpoint.reach("finish.before_commit");
    }
    let mut conn = status.connection().await?;
    let reported =
        storage::reports::report(&mut conn, term.number, request.executor_id, &request.reports, status.now())
            .await
            .map_err(RouteError::of_report)?;
    drop(conn);
    timer.observe_duration();
    status.failpoint.reach("report.after_commit");
    if reported.iter().any(|one| one.ended.is_some()) {
        status.failpoint.reach("finish.after_commit");
    }
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

//! `POST /v1/executions/{id}/stop`: waits a moment for the receipt.

use actix_web::{HttpRequest, HttpResponse, web};
use protocol::{
    identity::Principal,
    operate::{STOP_PATH, Stop, Stopped},
    read::{ExecutionView, Found},
};
use service::Problem;

use crate::{
    body::{Fields, Posted},
    edge::problem_response,
    executions::{self, found, subject},
    failure, query,
    routes::{self, Entry},
    service::Gateway,
    views,
};

/// How long the call waits for the receipt.
const RECEIPT_WITHIN_MS: u64 = 300;

pub(crate) fn routes() -> Vec<Entry> {
    vec![routes::post("/v1/executions/{id}/stop", stop)]
}

async fn stop(
    gateway: web::Data<Gateway>,
    posted: Posted,
    id: web::Path<String>,
    request: HttpRequest,
) -> HttpResponse {
    let Posted { caller, body } = posted;
    let result = async {
        // There is nothing to say in a body: `force` is a parameter, and must not be lost in silence.
        Fields::of(body).known()?;
        let force = query::flag(&request, "force")?;
        ask(&gateway, &caller, &id, force).await
    };
    match result.await {
        Ok(view) if view.state.is_terminal() => HttpResponse::Ok().json(views::execution(&gateway, &view)),
        Ok(view) => HttpResponse::Accepted().json(views::execution(&gateway, &view)),
        Err(problem) => problem_response(problem),
    }
}

/// Stops, and reads what became of it. Repeatable; what has ended stays as it is.
pub(crate) async fn ask(
    gateway: &Gateway,
    caller: &Principal,
    id: &str,
    force: bool,
) -> Result<ExecutionView, Problem> {
    let stop = Stop { subject: subject(caller, id)?, force, wait_ms: RECEIPT_WITHIN_MS };
    let answer: Found<Stopped> = gateway.ask(STOP_PATH, &stop).await.map_err(|error| failure::internal(&error))?;
    found(answer)?;
    executions::read(gateway, caller, stop.subject.execution_id).await
}

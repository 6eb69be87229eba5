//! `POST /v1/executions/{id}/stop`: waits a moment for the receipt.

use actix_web::{HttpRequest, HttpResponse, web};
use protocol::{
    identity::Principal,
    operate::{STOP_PATH, Stop, Stopped},
    read::{ExecutionView, Found},
};
use service::Problem;

use crate::{
    auth::Caller,
    edge::{problem_response, resource},
    executions::{self, found, subject},
    failure,
    service::Gateway,
    views,
};

/// How long the call waits for the receipt.
const RECEIPT_WITHIN_MS: u64 = 300;

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config.service(resource("/v1/executions/{id}/stop", "POST").route(web::post().to(stop)));
}

async fn stop(
    gateway: web::Data<Gateway>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
) -> HttpResponse {
    let result = async {
        let force = force(&request)?;
        ask(&gateway, &caller, &id, force).await
    };
    match result.await {
        Ok(view) if view.state.is_terminal() => HttpResponse::Ok().json(views::execution(&gateway, &view)),
        Ok(view) => HttpResponse::Accepted().json(views::execution(&gateway, &view)),
        Err(problem) => problem_response(problem),
    }
}

fn force(request: &HttpRequest) -> Result<bool, Problem> {
    let mut force = false;
    for (name, value) in url::form_urlencoded::parse(request.query_string().as_bytes()).take(16) {
        force = match (&*name, &*value) {
            ("force", "true") => true,
            ("force", "false") => false,
            ("force", _) => return Err(executions::wrong("force", "is true or false")),
            _ => return Err(executions::wrong(&name, "is not a parameter of this call")),
        };
    }
    Ok(force)
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

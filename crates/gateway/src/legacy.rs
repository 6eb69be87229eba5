//! The paths of the first documents, served by the same handlers. Old pollers end: they know `processing` and `failed`.

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::header::{HeaderName, HeaderValue, LINK},
    middleware::Next,
    web,
};
use domain::State;
use protocol::read::{ExecutionView, ReadStats, STATS_PATH, Stats};
use serde_json::{Value, json};
use service::{Problem, ProblemCode};

use crate::{
    accept::Dialect,
    auth::Caller,
    body::{Fields, Posted},
    edge::problem_response,
    engines, execute,
    executions::{self, subject},
    failure, listing,
    restart::{self, Way},
    routes::{self, Entry},
    service::Gateway,
    stop, views,
};

/// Below this they are.
pub(crate) const PREFIX: &str = "/engines-api";
/// When these paths were deprecated (RFC 9745): the day of `/v1`.
const DEPRECATED: &str = "@1795219200";

pub(crate) fn routes() -> Vec<Entry> {
    vec![
        routes::get("/engines-api/list", list_engines),
        routes::get("/engines-api/stats", stats),
        routes::get("/engines-api/executions", list),
        routes::get("/engines-api/executions/{id}", get),
        routes::post("/engines-api/stop/{id}", stop),
        routes::post("/engines-api/{engine}/execute", execute),
        routes::post("/engines-api/{engine}/resume", resume),
        routes::get("/engines-api/{engine}", engine),
    ]
}

/// Marks every answer.
pub(crate) async fn deprecated(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let mut response = next.call(request).await?.map_into_boxed_body();
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("deprecation"), HeaderValue::from_static(DEPRECATED));
    headers.append(LINK, HeaderValue::from_static("</docs>; rel=\"deprecation\""));
    Ok(response)
}

/// The old word for a state.
pub(crate) const fn word(state: State) -> &'static str {
    match state {
        State::Waiting | State::Cancelling => State::Processing.as_str(),
        State::Expired => State::Failed.as_str(),
        state => state.as_str(),
    }
}

/// An execution in the old words.
pub(crate) fn execution(gateway: &Gateway, view: &ExecutionView) -> Value {
    let mut body = views::execution(gateway, view);
    if let Some(status) = body.get_mut("status") {
        *status = Value::String(word(view.state).to_owned());
    }
    body
}

async fn list_engines(gateway: web::Data<Gateway>, caller: Caller) -> HttpResponse {
    match engines::owned(&gateway, &caller).await {
        Ok(owned) => HttpResponse::Ok().json(json!({ "engines": owned.iter().map(engines::view).collect::<Vec<_>>() })),
        Err(problem) => problem_response(problem),
    }
}

async fn engine(gateway: web::Data<Gateway>, caller: Caller, engine: web::Path<String>) -> HttpResponse {
    let found = async {
        let engine = gateway.engines.resolve(&caller, &engine, None).await?;
        let flow = gateway.engines.compiled(&engine).await?;
        let mut body = engines::view(&engine);
        if let Some(fields) = body.as_object_mut() {
            fields.insert("inputSchema".to_owned(), flow.form().json_schema());
        }
        Ok::<_, Problem>(body)
    };
    match found.await {
        Ok(body) => HttpResponse::Ok().json(body),
        Err(problem) => problem_response(problem),
    }
}

async fn execute(
    gateway: web::Data<Gateway>,
    posted: Posted,
    engine: web::Path<String>,
    request: HttpRequest,
) -> HttpResponse {
    let result = Box::pin(execute::run(&gateway, posted, &engine, &request, Dialect::Legacy)).await;
    result.unwrap_or_else(problem_response)
}

async fn list(gateway: web::Data<Gateway>, caller: Caller, request: HttpRequest) -> HttpResponse {
    match listing::page_of(&gateway, &caller, &request, Dialect::Legacy).await {
        Ok((page, next)) => {
            let executions: Vec<Value> = page.executions.iter().map(|view| execution(&gateway, view)).collect();
            HttpResponse::Ok().json(json!({ "executions": executions, "nextPageToken": next }))
        }
        Err(problem) => problem_response(problem),
    }
}

async fn get(gateway: web::Data<Gateway>, caller: Caller, id: web::Path<String>, request: HttpRequest) -> HttpResponse {
    let view = async {
        let subject = subject(&caller, &id)?;
        executions::read(&gateway, &caller, subject.execution_id).await
    };
    match view.await {
        Ok(view) => executions::answer(&request, &view, execution(&gateway, &view)),
        Err(problem) => problem_response(problem),
    }
}

async fn stop(gateway: web::Data<Gateway>, caller: Caller, id: web::Path<String>) -> HttpResponse {
    match stop::ask(&gateway, &caller, &id, false).await {
        Ok(view) if view.state.is_terminal() => HttpResponse::Ok().json(execution(&gateway, &view)),
        Ok(view) => HttpResponse::Accepted().json(execution(&gateway, &view)),
        Err(problem) => problem_response(problem),
    }
}

/// The first documents name the engine in the path and the execution in the body.
async fn resume(
    gateway: web::Data<Gateway>,
    posted: Posted,
    engine: web::Path<String>,
    request: HttpRequest,
) -> HttpResponse {
    let result = async {
        let Posted { caller, body } = posted;
        let id = named(body)?;
        let resolved = gateway.engines.resolve(&caller, &engine, None).await?;
        let view = executions::read(&gateway, &caller, subject(&caller, &id)?.execution_id).await?;
        if view.engine_id != resolved.engine_id {
            return Err(failure::not_found("execution"));
        }
        let empty = Posted { caller, body: json!({}) };
        Box::pin(restart::again(&gateway, empty, &id, &request, Way::Resume, Dialect::Legacy)).await
    };
    result.await.unwrap_or_else(problem_response)
}

/// The execution that a body names, and nothing else.
fn named(body: Value) -> Result<String, Problem> {
    let is_there = body.get("executionId").is_some_and(|id| !id.is_null());
    let mut fields = Fields::of(body);
    let id: Option<String> = fields.take("executionId", "invalid");
    fields.known()?;
    if !is_there {
        fields.wrong("/executionId", "required", "is missing");
    }
    fields.end()?;
    id.ok_or_else(|| Problem::new(ProblemCode::InvalidInput))
}

async fn stats(gateway: web::Data<Gateway>, caller: Caller) -> HttpResponse {
    let question = ReadStats { user_id: caller.user_id, user_engine_id: caller.user_engine_id };
    match gateway.ask::<_, Stats>(STATS_PATH, &question).await {
        Ok(stats) => {
            let of = |words: &[&str]| -> i64 { words.iter().filter_map(|word| stats.by_state.get(*word)).sum() };
            HttpResponse::Ok().json(json!({
                "total": stats.by_state.values().sum::<i64>(),
                "queued": of(&["queued"]),
                "processing": of(&["processing", "waiting", "cancelling"]),
                "completed": of(&["completed"]),
                "failed": of(&["failed", "expired"]),
                "cancelled": of(&["cancelled"]),
                "usage": {
                    "input": stats.input_tokens,
                    "output": stats.output_tokens,
                    "total": stats.input_tokens + stats.output_tokens,
                },
            }))
        }
        Err(error) => problem_response(failure::internal(&error)),
    }
}

//! The paths of the first documents, served by the same handlers. Old pollers end: they know `processing` and `failed`.

use actix_web::{
    HttpRequest, HttpResponse, Resource,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::header::{HeaderName, HeaderValue, LINK},
    middleware::{Next, from_fn},
    web,
};
use protocol::read::{ReadStats, STATS_PATH, Stats};
use serde_json::{Value, json};
use service::Problem;

use crate::{
    auth::Caller,
    body::JsonBody,
    edge::{problem_response, wrong_method},
    engines,
    execute::{self, Dialect},
    executions::{self, subject},
    failure, restart,
    service::Gateway,
    stop, views,
};

/// When these paths were deprecated (RFC 9745): the day of `/v1`.
const DEPRECATED: &str = "@1795219200";

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    let scope = web::scope("/engines-api")
        .wrap(from_fn(deprecated))
        .service(resource("/list", "GET").route(web::get().to(list_engines)))
        .service(resource("/stats", "GET").route(web::get().to(stats)))
        .service(resource("/executions", "GET").route(web::get().to(list)))
        .service(resource("/executions/{id}", "GET").route(web::get().to(get)))
        .service(resource("/stop/{id}", "POST").route(web::post().to(stop)))
        .service(resource("/{engine}/execute", "POST").route(web::post().to(execute)))
        .service(resource("/{engine}/resume", "POST").route(web::post().to(resume)))
        .service(resource("/{engine}", "GET").route(web::get().to(engine)))
        .default_service(web::to(crate::edge::not_found));
    config.service(scope);
}

fn resource(path: &str, allow: &'static str) -> Resource {
    web::resource(path).default_service(web::to(move || wrong_method(allow)))
}

async fn deprecated(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let mut response = next.call(request).await?.map_into_boxed_body();
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("deprecation"), HeaderValue::from_static(DEPRECATED));
    headers.append(LINK, HeaderValue::from_static("</docs>; rel=\"deprecation\""));
    Ok(response)
}

/// An execution in the old words.
fn old_words(gateway: &Gateway, view: &protocol::read::ExecutionView) -> Value {
    let mut body = views::execution(gateway, view);
    if let Some(status) = body.get_mut("status") {
        let word = match status.as_str() {
            Some("waiting" | "cancelling") => "processing",
            Some("expired") => "failed",
            Some(word) => word,
            None => "failed",
        };
        *status = Value::String(word.to_owned());
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
    caller: Caller,
    engine: web::Path<String>,
    request: HttpRequest,
    body: JsonBody,
) -> HttpResponse {
    let result = execute::run(&gateway, &caller, &engine, &request, body, Dialect::Legacy).await;
    result.unwrap_or_else(problem_response)
}

async fn list(gateway: web::Data<Gateway>, caller: Caller, request: HttpRequest) -> HttpResponse {
    match executions::page_of(&gateway, &caller, &request).await {
        Ok((page, next)) => {
            let executions: Vec<Value> = page.executions.iter().map(|view| old_words(&gateway, view)).collect();
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
        Ok(view) => executions::answer(&request, &view, old_words(&gateway, &view)),
        Err(problem) => problem_response(problem),
    }
}

async fn stop(gateway: web::Data<Gateway>, caller: Caller, id: web::Path<String>) -> HttpResponse {
    match stop::ask(&gateway, &caller, &id, false).await {
        Ok(view) if view.state.is_terminal() => HttpResponse::Ok().json(old_words(&gateway, &view)),
        Ok(view) => HttpResponse::Accepted().json(old_words(&gateway, &view)),
        Err(problem) => problem_response(problem),
    }
}

/// The first documents name the engine in the path and the execution in the body.
async fn resume(
    gateway: web::Data<Gateway>,
    caller: Caller,
    engine: web::Path<String>,
    request: HttpRequest,
    body: JsonBody,
) -> HttpResponse {
    let result = async {
        let id = body.value.get("executionId").and_then(Value::as_str).map(str::to_owned);
        let id = id.ok_or_else(|| {
            Problem::new(service::ProblemCode::InvalidRequest).detail("name the execution to resume").field(
                "/executionId",
                "required",
                "is missing",
            )
        })?;
        let resolved = gateway.engines.resolve(&caller, &engine, None).await?;
        let view = executions::read(&gateway, &caller, subject(&caller, &id)?.execution_id).await?;
        if view.engine_id != resolved.engine_id {
            return Err(failure::not_found("execution"));
        }
        let empty = JsonBody { value: json!({}) };
        restart::again(&gateway, &caller, &id, &request, empty, true, Dialect::Legacy).await
    };
    result.await.unwrap_or_else(problem_response)
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

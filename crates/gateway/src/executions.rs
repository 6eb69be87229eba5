//! Reading executions: one, many, and the place in the queue.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, EntityTag, IfNoneMatch},
    web,
};
use domain::{ExecutionId, State};
use protocol::{
    identity::Principal,
    read::{EXECUTION_PATH, ExecutionView, Found, QUEUE_PATH, ReadExecution, Subject},
    submission::QueueBlock,
};
use serde_json::{Value, json};
use service::Problem;
use sha2::{Digest as _, Sha256};

use crate::{
    accept::Dialect,
    auth::Caller,
    edge::problem_response,
    failure, listing,
    routes::{self, Entry},
    service::Gateway,
    views,
};

/// How long a read with the place in the queue may take; a read without it has the rest of the time.
const WITH_QUEUE_WITHIN: Duration = Duration::from_secs(2);
/// The rest.
const WITHOUT_QUEUE_WITHIN: Duration = Duration::from_secs(3);

pub(crate) fn routes() -> Vec<Entry> {
    vec![
        routes::get("/v1/executions", list),
        routes::get("/v1/executions/{id}", get),
        routes::get("/v1/executions/{id}/queue", queue),
    ]
}

/// What the caller may mean by an id. A malformed id is an unknown one.
pub(crate) fn subject(caller: &Principal, id: &str) -> Result<Subject, Problem> {
    let execution_id: ExecutionId = id.parse().map_err(|_malformed| failure::not_found("execution"))?;
    Ok(Subject { user_id: Some(caller.user_id), user_engine_id: caller.user_engine_id, execution_id })
}

/// What status found, or the problem.
pub(crate) fn found<T>(answer: Found<T>) -> Result<T, Problem> {
    match answer {
        Found::Found(value) => Ok(value),
        Found::Missing => Err(failure::not_found("execution")),
        Found::NotYet => Err(failure::not_yet()),
    }
}

/// An execution of the caller.
pub(crate) async fn read(gateway: &Gateway, caller: &Principal, id: ExecutionId) -> Result<ExecutionView, Problem> {
    let subject = Subject { user_id: Some(caller.user_id), user_engine_id: caller.user_engine_id, execution_id: id };
    of(gateway, subject).await
}

/// An execution. Only the leader knows a place in the queue: when there is none, any replica tells the rest.
pub(crate) async fn of(gateway: &Gateway, subject: Subject) -> Result<ExecutionView, Problem> {
    let mut question = ReadExecution { subject, without_queue: false };
    let mut answer: Result<Found<ExecutionView>, _> =
        gateway.status.post_json(EXECUTION_PATH, &question, WITH_QUEUE_WITHIN).await;
    if answer.as_ref().is_err_and(service::InternalError::is_retryable) {
        question.without_queue = true;
        answer = Box::pin(gateway.status.post_json(EXECUTION_PATH, &question, WITHOUT_QUEUE_WITHIN)).await;
    }
    found(answer.map_err(|error| failure::internal(&error))?)
}

async fn get(gateway: web::Data<Gateway>, caller: Caller, id: web::Path<String>, request: HttpRequest) -> HttpResponse {
    let view = async {
        let subject = subject(&caller, &id)?;
        read(&gateway, &caller, subject.execution_id).await
    };
    match view.await {
        Ok(view) => answer(&request, &view, views::execution(&gateway, &view)),
        Err(problem) => problem_response(problem),
    }
}

/// 304 when the client has this very answer: the tag is of all it says, the signatures of links included. A queued one moves
/// in the queue without an event: it has no tag.
pub(crate) fn answer(request: &HttpRequest, view: &ExecutionView, body: Value) -> HttpResponse {
    if view.state == State::Queued {
        return HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "private, no-cache")).json(body);
    }
    let text = body.to_string();
    let mut hash = hex::encode(Sha256::digest(&text));
    hash.truncate(32);
    let tag = EntityTag::new_weak(hash);
    let known = match actix_web::http::header::Header::parse(request) {
        Ok(IfNoneMatch::Any) => true,
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(&tag)),
        Err(_) => false,
    };
    let mut response = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header(header::ETag(tag)).insert_header((header::CACHE_CONTROL, "private, no-cache"));
    if known { response.finish() } else { response.content_type("application/json").body(text) }
}

async fn queue(gateway: web::Data<Gateway>, caller: Caller, id: web::Path<String>) -> HttpResponse {
    let block = async {
        let subject = subject(&caller, &id)?;
        let answer: Found<Option<QueueBlock>> =
            gateway.ask(QUEUE_PATH, &subject).await.map_err(|error| failure::internal(&error))?;
        found(answer).map(|block| (subject.execution_id, block))
    };
    match block.await {
        Ok((id, block)) => {
            let queue = block.as_ref().map(views::queue);
            HttpResponse::Ok().json(json!({ "executionId": id, "queue": queue }))
        }
        Err(problem) => problem_response(problem),
    }
}

async fn list(gateway: web::Data<Gateway>, caller: Caller, request: HttpRequest) -> HttpResponse {
    match listing::page_of(&gateway, &caller, &request, Dialect::V1).await {
        Ok((page, next)) => {
            let data: Vec<Value> = page.executions.iter().map(|view| views::execution(&gateway, view)).collect();
            let mut response = HttpResponse::Ok();
            if let Some(next) = &next {
                let url = next_url(&gateway, &request, next);
                response.insert_header((header::LINK, format!("<{url}>; rel=\"next\"")));
            }
            response.json(json!({ "data": data, "nextPageToken": next }))
        }
        Err(problem) => problem_response(problem),
    }
}

fn next_url(gateway: &Gateway, request: &HttpRequest, next: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in url::form_urlencoded::parse(request.query_string().as_bytes()) {
        if name != "pageToken" {
            query.append_pair(&name, &value);
        }
    }
    query.append_pair("pageToken", next);
    format!("{}{}?{}", gateway.public_url, request.path(), query.finish())
}

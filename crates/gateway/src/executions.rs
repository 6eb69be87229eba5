//! Reading executions: one, many, and the place in the queue.

use std::collections::BTreeMap;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, EntityTag, IfNoneMatch},
    web,
};
use chrono::{DateTime, Utc};
use domain::{EngineId, ExecutionId, State};
use protocol::{
    identity::Principal,
    read::{EXECUTION_PATH, EXECUTIONS_PATH, ExecutionPage, ExecutionView, Found, ListExecutions, QUEUE_PATH, Subject},
    submission::QueueBlock,
};
use serde_json::{Value, json};
use service::{Problem, ProblemCode};

use crate::{
    auth::Caller,
    edge::{problem_response, resource},
    failure, page,
    service::Gateway,
    views,
};

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(resource("/v1/executions", "GET").route(web::get().to(list)))
        .service(resource("/v1/executions/{id}", "GET").route(web::get().to(get)))
        .service(resource("/v1/executions/{id}/queue", "GET").route(web::get().to(queue)));
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
    let answer: Found<ExecutionView> =
        gateway.ask(EXECUTION_PATH, &subject).await.map_err(|error| failure::internal(&error))?;
    found(answer)
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

/// 304 when the client has this very state. A queued one moves in the queue without an event: it has no tag.
pub(crate) fn answer(request: &HttpRequest, view: &ExecutionView, body: Value) -> HttpResponse {
    if view.state == State::Queued {
        return HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "private, no-cache")).json(body);
    }
    let tag = EntityTag::new_weak(format!("{}-{}", view.last_sequence.0, view.input_tokens + view.output_tokens));
    let known = match actix_web::http::header::Header::parse(request) {
        Ok(IfNoneMatch::Any) => true,
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(&tag)),
        Err(_) => false,
    };
    let mut response = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header(header::ETag(tag)).insert_header((header::CACHE_CONTROL, "private, no-cache"));
    if known { response.finish() } else { response.json(body) }
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
    match page_of(&gateway, &caller, &request).await {
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

/// A page of the caller's executions and the token of the next one.
pub(crate) async fn page_of(
    gateway: &Gateway,
    caller: &Principal,
    request: &HttpRequest,
) -> Result<(ExecutionPage, Option<String>), Problem> {
    let filter = Filter::read(request.query_string())?;
    let bound = format!("{}|{:?}|{}", caller.user_id, caller.user_engine_id, filter.text);
    let after = match &filter.page_token {
        Some(token) => {
            let place = page::read(&gateway.link_secret, &bound, token);
            Some(place.ok_or_else(|| wrong("pageToken", "is not a token of this filter"))?)
        }
        None => None,
    };
    let query = ListExecutions {
        user_id: Some(caller.user_id),
        user_engine_id: caller.user_engine_id,
        states: filter.states,
        engine_id: filter.engine,
        created_after: filter.created_after,
        created_before: filter.created_before,
        labels: filter.labels,
        after,
        limit: filter.page_size,
    };
    let page: ExecutionPage = gateway.ask(EXECUTIONS_PATH, &query).await.map_err(|error| failure::internal(&error))?;
    let next = page.next.map(|(at, id)| page::token(&gateway.link_secret, &bound, at, id));
    Ok((page, next))
}

/// The query of a list.
struct Filter {
    states: Vec<State>,
    engine: Option<EngineId>,
    created_after: Option<DateTime<Utc>>,
    created_before: Option<DateTime<Utc>>,
    labels: BTreeMap<String, String>,
    page_size: u32,
    page_token: Option<String>,
    /// Everything but the paging, in one canonical form: what a token is bound to.
    text: String,
}

impl Filter {
    fn read(query: &str) -> Result<Self, Problem> {
        let mut filter = Self {
            states: Vec::new(),
            engine: None,
            created_after: None,
            created_before: None,
            labels: BTreeMap::new(),
            page_size: 20,
            page_token: None,
            text: String::new(),
        };
        let mut named: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()).take(64) {
            filter.set(&name, &value)?;
            if !matches!(&*name, "pageToken" | "pageSize") {
                named.push((name.into_owned(), value.into_owned()));
            }
        }
        named.sort();
        filter.text = format!("{named:?}");
        Ok(filter)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        match name {
            "status" => {
                for word in value.split(',') {
                    let state = State::ALL.into_iter().find(|state| state.as_str() == word);
                    self.states.push(state.ok_or_else(|| wrong("status", "is not a status"))?);
                }
            }
            "engine" => {
                let engine = value.parse().map_err(|_malformed| wrong("engine", "is not an engine id"))?;
                self.engine = Some(engine);
            }
            "createdAfter" => self.created_after = Some(instant(name, value)?),
            "createdBefore" => self.created_before = Some(instant(name, value)?),
            "pageSize" => {
                let size = value.parse().ok().filter(|size| (1..=100).contains(size));
                self.page_size = size.ok_or_else(|| wrong("pageSize", "is a number from 1 to 100"))?;
            }
            "pageToken" => self.page_token = Some(value.to_owned()),
            _ => match name.strip_prefix("label.") {
                Some(label) if !label.contains('\0') && !value.contains('\0') => {
                    self.labels.insert(label.to_owned(), value.to_owned());
                }
                _ => return Err(wrong(name, "is not a parameter of this list")),
            },
        }
        Ok(())
    }
}

fn instant(name: &str, value: &str) -> Result<DateTime<Utc>, Problem> {
    let at = DateTime::parse_from_rfc3339(value).map_err(|_malformed| wrong(name, "is an RFC 3339 timestamp"))?;
    Ok(at.with_timezone(&Utc))
}

/// A query parameter that cannot be read.
pub(crate) fn wrong(name: &str, detail: &str) -> Problem {
    let name = name.replace('\0', "\u{fffd}");
    Problem::new(ProblemCode::InvalidRequest).detail(format!("`{name}` {detail}")).field(name, "invalid", detail)
}

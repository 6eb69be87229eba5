//! Restart and resume: each makes a new execution with a parent.

use actix_web::{HttpRequest, HttpResponse, web};
use domain::State;
use protocol::{
    identity::Principal,
    read::{Found, SOURCE_PATH, Source},
    submission::{Idempotency, Parent},
};
use serde::Deserialize;
use serde_json::Value;
use service::{Problem, ProblemCode};

use crate::{
    auth::Caller,
    body::JsonBody,
    edge::{problem_response, resource},
    execute::{self, Dialect, Order},
    executions::{found, subject},
    failure, form,
    service::Gateway,
    stop,
};

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(resource("/v1/executions/{id}/restart", "POST").route(web::post().to(restart)))
        .service(resource("/v1/executions/{id}/resume", "POST").route(web::post().to(resume)));
}

/// The body of a restart: the same input, unless another one is given.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Restart {
    #[serde(default, alias = "userInput")]
    input: Option<Value>,
}

/// The body of a resume: nothing yet.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resume {}

async fn restart(
    gateway: web::Data<Gateway>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    body: JsonBody,
) -> HttpResponse {
    again(&gateway, &caller, &id, &request, body, false, Dialect::V1).await.unwrap_or_else(problem_response)
}

async fn resume(
    gateway: web::Data<Gateway>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    body: JsonBody,
) -> HttpResponse {
    again(&gateway, &caller, &id, &request, body, true, Dialect::V1).await.unwrap_or_else(problem_response)
}

/// Makes the new execution. A restart of an unfinished one stops it first.
pub(crate) async fn again(
    gateway: &Gateway,
    caller: &Principal,
    id: &str,
    request: &HttpRequest,
    body: JsonBody,
    inherit: bool,
    dialect: Dialect,
) -> Result<HttpResponse, Problem> {
    let key = execute::idempotency_key(request)?;
    let hash = key.as_ref().map(|_| execute::body_hash(&body.value));
    let input = if inherit { body.read::<Resume>().map(|Resume {}| None)? } else { body.read::<Restart>()?.input };
    let subject = subject(caller, id)?;
    let answer: Found<Source> = gateway.ask(SOURCE_PATH, &subject).await.map_err(|error| failure::internal(&error))?;
    let source = found(answer)?;
    let input = match input {
        Some(input) => checked(gateway, caller, &source, &input).await?,
        None => source.input.clone(),
    };
    let mut stopped = false;
    if inherit {
        resumable(&source)?;
    } else if !source.state.is_terminal() {
        stop::ask(gateway, caller, id, false).await?;
        stopped = true;
    }
    let route = format!("{}/{}", if inherit { "resume" } else { "restart" }, source.execution_id);
    let order = Order {
        engine_id: source.engine_id,
        user_engine_id: source.user_engine_id,
        version_id: source.version_id,
        input,
        priority: source.priority,
        labels: source.labels,
        end_user: source.end_user,
        deadline_ms: None,
        queue_ttl_ms: None,
        idempotency: key.zip(hash).map(|(key, body_hash)| Idempotency { route, key, body_hash }),
        parent: Some(Parent { execution_id: source.execution_id, inherit }),
    };
    let extra = Again { stopped, inherit, tokens_saved: source.tokens_saved, completed_units: source.completed_units };
    let wait = execute::prefer_wait(request);
    let response = execute::submit(gateway, caller, order, wait, dialect).await?;
    Ok(extra.add_to(response, source.execution_id.to_string()).await)
}

fn resumable(source: &Source) -> Result<(), Problem> {
    let detail = match source.state {
        State::Failed | State::Cancelled | State::Expired => return Ok(()),
        State::Completed => "a completed execution has nothing to resume",
        _ => "the execution is not finished: stop it first",
    };
    Err(Problem::new(ProblemCode::NotResumable).detail(detail))
}

async fn checked(
    gateway: &Gateway,
    caller: &Principal,
    source: &Source,
    input: &Value,
) -> Result<Box<serde_json::value::RawValue>, Problem> {
    let engine = gateway.engines.resolve(caller, &source.engine_id.to_string(), Some(source.version_id)).await?;
    let flow = gateway.engines.compiled(&engine).await?;
    let input = form::check(&flow, input)?;
    serde_json::value::to_raw_value(&input).map_err(|_unwritable| Problem::new(ProblemCode::Internal))
}

/// What the answer says beyond that of a submission.
struct Again {
    stopped: bool,
    inherit: bool,
    tokens_saved: i64,
    completed_units: u32,
}

impl Again {
    async fn add_to(&self, response: HttpResponse, parent: String) -> HttpResponse {
        let (head, body) = response.into_parts();
        let Ok(bytes) = actix_web::body::to_bytes(body).await else {
            return head.set_body(actix_web::body::BoxBody::new(()));
        };
        let mut value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            fields.insert("parentId".to_owned(), Value::String(parent));
            if self.stopped {
                fields.insert("stopped".to_owned(), Value::Bool(true));
            }
            if self.inherit {
                fields.insert("tokensSaved".to_owned(), self.tokens_saved.into());
                fields.insert("completedUnits".to_owned(), self.completed_units.into());
            }
        }
        head.set_body(actix_web::body::BoxBody::new(value.to_string()))
    }
}

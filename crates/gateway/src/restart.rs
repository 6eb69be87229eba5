//! Restart and resume: each makes a new execution with a parent.

use actix_web::{HttpRequest, HttpResponse, web};
use domain::State;
use protocol::{
    identity::Principal,
    read::{Found, SOURCE_PATH, Source},
    submission::Parent,
};
use serde_json::{Map, Value, json, value::RawValue};
use service::{Problem, ProblemCode};

use crate::{
    accept::{self, Answer, Dialect, Order},
    body::{Fields, Posted},
    edge::problem_response,
    executions::{found, subject},
    failure, form,
    idempotency::Keyed,
    options::Input,
    query,
    routes::{self, Entry},
    service::Gateway,
    stop, wait,
};

pub(crate) fn routes() -> Vec<Entry> {
    vec![routes::post("/v1/executions/{id}/restart", restart), routes::post("/v1/executions/{id}/resume", resume)]
}

async fn restart(
    gateway: web::Data<Gateway>,
    posted: Posted,
    id: web::Path<String>,
    request: HttpRequest,
) -> HttpResponse {
    Box::pin(again(&gateway, posted, &id, &request, Way::Restart, Dialect::V1)).await.unwrap_or_else(problem_response)
}

async fn resume(
    gateway: web::Data<Gateway>,
    posted: Posted,
    id: web::Path<String>,
    request: HttpRequest,
) -> HttpResponse {
    Box::pin(again(&gateway, posted, &id, &request, Way::Resume, Dialect::V1)).await.unwrap_or_else(problem_response)
}

/// From the start, or where it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Restart,
    Resume,
}

/// Makes the new execution. It is a submission like any other: the engine has to be the caller's still, and enabled.
pub(crate) async fn again(
    gateway: &Gateway,
    posted: Posted,
    id: &str,
    request: &HttpRequest,
    way: Way,
    dialect: Dialect,
) -> Result<HttpResponse, Problem> {
    let Posted { caller, body } = posted;
    let parallel = if way == Way::Resume { query::flag(request, "parallel")? } else { false };
    let keyed = Keyed::read(request, &body)?;
    let input = read(body, way)?;
    let subject = subject(&caller, id)?;
    let answer: Found<Source> = gateway.ask(SOURCE_PATH, &subject).await.map_err(|error| failure::internal(&error))?;
    let source = found(answer)?;
    let (state, unfinished) = (source.state, source.unfinished_resume);
    let mut extra = extra(&source, way);
    let input = match checked(gateway, &caller, &source, input, way).await {
        Ok(input) => input,
        Err(refusal) => {
            let Some(keyed) = keyed.filter(|_| refusal.status < 500) else { return Err(refusal) };
            let accepted = accept::replay(gateway, &caller, keyed.within(route(&source, way)), refusal).await?;
            return Ok(accepted
                .answer(gateway, &caller, Answer { dialect, wait: wait::preferred(request), extra })
                .await);
        }
    };
    let parent = Parent { execution_id: source.execution_id, inherit: way == Way::Resume, parallel };
    let order = order(&caller, source, input, keyed, parent);
    let accepted = accept::submit(gateway, &caller, order).await.map_err(|problem| match unfinished {
        Some(child) if problem.code == ProblemCode::NotResumable => problem.execution(child.to_string()),
        _ => problem,
    })?;
    // Only now: had it been refused, the one that runs would have been lost for nothing.
    if way == Way::Restart && !state.is_terminal() {
        let stopped = stop::ask(gateway, &caller, id, false).await;
        if let Err(problem) = &stopped {
            tracing::warn!(%problem, execution.id = %subject.execution_id, "a restarted execution is not stopped");
        }
        extra.insert("stopped".to_owned(), Value::Bool(stopped.is_ok()));
    }
    Ok(accepted.answer(gateway, &caller, Answer { dialect, wait: wait::preferred(request), extra }).await)
}

/// The input that a restart may bring; a resume brings nothing.
fn read(body: Value, way: Way) -> Result<Option<Input>, Problem> {
    let mut fields = Fields::of(body);
    let input = if way == Way::Restart { Input::take(&mut fields)? } else { None };
    fields.known()?;
    Ok(input)
}

/// Whether what ended like this can be resumed.
///
/// # Errors
/// 409 when it cannot.
pub(crate) fn resumable(state: State) -> Result<(), Problem> {
    let detail = match state {
        State::Failed | State::Cancelled | State::Expired => return Ok(()),
        State::Completed => "a completed execution has nothing to resume",
        _ => "the execution is not finished: stop it first",
    };
    Err(Problem::new(ProblemCode::NotResumable).detail(detail))
}

/// The input for the version that the source ran, of an engine that the caller may use now.
async fn checked(
    gateway: &Gateway,
    caller: &Principal,
    source: &Source,
    input: Option<Input>,
    way: Way,
) -> Result<Box<RawValue>, Problem> {
    if way == Way::Resume {
        resumable(source.state)?;
    }
    let engine = gateway.engines.resolve(caller, &source.engine_id.to_string(), Some(source.version_id)).await?;
    if !engine.enabled {
        return Err(Problem::new(ProblemCode::EngineDisabled));
    }
    let Some(input) = input else { return Ok(source.input.clone()) };
    let flow = gateway.engines.compiled(&engine).await?;
    let input = form::check(&flow, &input.value, input.name)?;
    serde_json::value::to_raw_value(&input).map_err(|_unwritable| Problem::new(ProblemCode::Internal))
}

fn order(caller: &Principal, source: Source, input: Box<RawValue>, keyed: Option<Keyed>, parent: Parent) -> Order {
    let route = route(&source, if parent.inherit { Way::Resume } else { Way::Restart });
    Order {
        engine_id: source.engine_id,
        user_engine_id: source.user_engine_id,
        version_id: source.version_id,
        input,
        // The level may allow less by now.
        priority: source.priority.min(caller.level.max_priority),
        labels: source.labels,
        end_user: source.end_user,
        deadline_ms: None,
        queue_ttl_ms: None,
        idempotency: keyed.map(|keyed| keyed.within(route)),
        parent: Some(parent),
    }
}

/// The scope of a key.
fn route(source: &Source, way: Way) -> String {
    let word = match way {
        Way::Restart => "restart",
        Way::Resume => "resume",
    };
    format!("{word}/{}", source.execution_id)
}

/// What the answer says beyond that of a submission.
fn extra(source: &Source, way: Way) -> Map<String, Value> {
    let mut extra = Map::new();
    extra.insert("parentId".to_owned(), json!(source.execution_id));
    if way == Way::Resume {
        extra.insert("tokensSaved".to_owned(), json!(source.tokens_saved));
        extra.insert("completedUnits".to_owned(), json!(source.completed_units));
    }
    extra
}

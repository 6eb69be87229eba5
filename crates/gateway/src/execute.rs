//! `POST /v1/engines/{engine}/execute`: from a body to a submission to a 202.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use protocol::identity::{Principal, ResolvedEngine};
use serde_json::{Map, Value, json, value::RawValue};
use service::{Problem, ProblemCode};

use crate::{
    accept::{self, Accepted, Answer, Dialect, Order},
    body::Posted,
    edge::problem_response,
    form,
    idempotency::Keyed,
    options::Options,
    routes::{self, Entry},
    service::Gateway,
    wait,
};

pub(crate) fn routes() -> Vec<Entry> {
    vec![
        routes::post("/v1/engines/{engine}/execute", execute),
        routes::post("/v1/engines/{engine}/executions", execute),
    ]
}

async fn execute(
    gateway: web::Data<Gateway>,
    posted: Posted,
    engine: web::Path<String>,
    request: HttpRequest,
) -> HttpResponse {
    Box::pin(run(&gateway, posted, &engine, &request, Dialect::V1)).await.unwrap_or_else(problem_response)
}

/// The whole of it, in the dialect of the path.
pub(crate) async fn run(
    gateway: &Gateway,
    posted: Posted,
    engine: &str,
    request: &HttpRequest,
    dialect: Dialect,
) -> Result<HttpResponse, Problem> {
    let Posted { caller, body } = posted;
    let keyed = Keyed::read(request, &body)?;
    let accepted = match checked(gateway, &caller, body, engine).await {
        Ok((engine, options, input)) if options.validate_only => {
            return Ok(HttpResponse::Ok().json(json!({
                "valid": true, "engineId": engine.engine_id, "engineVersionId": engine.version_id, "input": input,
            })));
        }
        Ok((engine, options, input)) => {
            let order = order(&engine, options, input, keyed);
            accept::submit(gateway, &caller, order).await?
        }
        Err(refusal) => match keyed.filter(|_| refusal.status < 500) {
            Some(keyed) => before(gateway, &caller, engine, keyed, refusal).await?,
            None => return Err(refusal),
        },
    };
    let answer = Answer { dialect, wait: wait::preferred(request), extra: Map::new() };
    Ok(accepted.answer(gateway, &caller, answer).await)
}

/// Everything that is checked before a submission.
async fn checked(
    gateway: &Gateway,
    caller: &Principal,
    body: Value,
    engine: &str,
) -> Result<(Arc<ResolvedEngine>, Options, Box<RawValue>), Problem> {
    let options = Options::read(body, &caller.level)?;
    let engine = gateway.engines.resolve(caller, engine, options.version).await?;
    if !engine.enabled {
        return Err(Problem::new(ProblemCode::EngineDisabled));
    }
    let flow = gateway.engines.compiled(&engine).await?;
    let input = form::check(&flow, &options.input.value, options.input.name)?;
    let input = serde_json::value::to_raw_value(&input).map_err(|_unwritable| Problem::new(ProblemCode::Internal))?;
    Ok((engine, options, input))
}

/// What was accepted before, if the engine that its key belongs to is still the caller's.
async fn before(
    gateway: &Gateway,
    caller: &Principal,
    engine: &str,
    keyed: Keyed,
    refusal: Problem,
) -> Result<Accepted, Problem> {
    let Ok(engine) = gateway.engines.resolve(caller, engine, None).await else { return Err(refusal) };
    accept::replay(gateway, caller, keyed.within(route(&engine)), refusal).await
}

/// The scope of a key.
fn route(engine: &ResolvedEngine) -> String {
    format!("execute/{}", engine.engine_id)
}

fn order(engine: &ResolvedEngine, options: Options, input: Box<RawValue>, keyed: Option<Keyed>) -> Order {
    Order {
        engine_id: engine.engine_id,
        user_engine_id: engine.user_engine_id,
        version_id: engine.version_id,
        input,
        priority: options.priority,
        labels: options.labels,
        end_user: options.end_user,
        deadline_ms: options.deadline_ms,
        queue_ttl_ms: options.queue_ttl_ms,
        idempotency: keyed.map(|keyed| keyed.within(route(engine))),
        parent: None,
    }
}

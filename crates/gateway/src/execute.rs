//! `POST /v1/engines/{engine}/execute`: from a body to a submission to a 202.

use actix_web::{HttpRequest, HttpResponse, web};
use protocol::identity::ResolvedEngine;
use serde_json::{Map, json, value::RawValue};
use service::{Problem, ProblemCode};

use crate::{
    accept::{self, Answer, Dialect, Order},
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
    let options = Options::read(body, &caller.level)?;
    let engine = gateway.engines.resolve(&caller, engine, options.version).await?;
    if !engine.enabled {
        return Err(Problem::new(ProblemCode::EngineDisabled));
    }
    let flow = gateway.engines.compiled(&engine).await?;
    let input = form::check(&flow, &options.input.value, options.input.name)?;
    if options.validate_only {
        return Ok(HttpResponse::Ok().json(json!({
            "valid": true, "engineId": engine.engine_id, "engineVersionId": engine.version_id, "input": input,
        })));
    }
    let input = serde_json::value::to_raw_value(&input).map_err(|_unwritable| Problem::new(ProblemCode::Internal))?;
    let order = order(&engine, options, input, keyed);
    let accepted = accept::submit(gateway, &caller, order).await?;
    let answer = Answer { dialect, wait: wait::preferred(request), extra: Map::new() };
    Ok(accepted.answer(gateway, &caller, answer).await)
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
        idempotency: keyed.map(|keyed| keyed.within(format!("execute/{}", engine.engine_id))),
        parent: None,
    }
}

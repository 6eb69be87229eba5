//! What operators look at: executions of all tenants, executors, invariants.

use actix_web::{HttpResponse, web};
use domain::{ExecutionId, State};
use protocol::{
    operate::{EXECUTORS_PATH, ExecutorView, INVARIANTS_PATH, Invariants, STOP_PATH, Stop, Stopped},
    read::{EXECUTION_PATH, EXECUTIONS_PATH, ExecutionPage, ExecutionView, Found, ListExecutions, Subject},
};
use serde::Deserialize;
use serde_json::json;
use service::{Problem, ProblemCode};

use crate::{
    listener::Admin,
    reply::ask,
    token::{Operator, Role},
};

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .route("/executions", web::get().to(executions))
        .route("/executions/{id}", web::get().to(execution))
        .route("/executions/{id}/stop", web::post().to(stop))
        .route("/executors", web::get().to(executors))
        .route("/invariants", web::get().to(invariants));
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Query {
    #[serde(default)]
    status: Option<State>,
    #[serde(default)]
    page_size: Option<u32>,
}

async fn executions(
    admin: web::Data<Admin>,
    operator: Operator,
    query: web::Query<Query>,
) -> Result<HttpResponse, Problem> {
    operator.require(Role::Viewer, "list executions")?;
    let question = ListExecutions {
        user_id: None,
        user_engine_id: None,
        states: query.status.into_iter().collect(),
        engine_id: None,
        created_after: None,
        created_before: None,
        labels: std::collections::BTreeMap::new(),
        after: None,
        limit: query.page_size.unwrap_or(50).clamp(1, 100),
    };
    let page: ExecutionPage = ask(&admin, EXECUTIONS_PATH, &question).await?;
    Ok(HttpResponse::Ok().json(json!({ "data": page.executions, "more": page.more })))
}

fn subject(id: &str) -> Result<Subject, Problem> {
    let execution_id: ExecutionId = id.parse().map_err(|_malformed| Problem::new(ProblemCode::NotFound))?;
    Ok(Subject { user_id: None, user_engine_id: None, execution_id })
}

async fn execution(
    admin: web::Data<Admin>,
    operator: Operator,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    operator.require(Role::Viewer, "read execution")?;
    let answer: Found<ExecutionView> = ask(&admin, EXECUTION_PATH, &subject(&id)?).await?;
    match answer {
        Found::Found(view) => Ok(HttpResponse::Ok().json(view)),
        Found::Missing | Found::NotYet => Err(Problem::new(ProblemCode::NotFound)),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StopQuery {
    #[serde(default)]
    force: bool,
}

async fn stop(
    admin: web::Data<Admin>,
    operator: Operator,
    id: web::Path<String>,
    query: web::Query<StopQuery>,
) -> Result<HttpResponse, Problem> {
    operator.require(Role::Operator, "stop execution")?;
    let question = Stop { subject: subject(&id)?, force: query.force, wait_ms: 300 };
    let answer: Found<Stopped> = ask(&admin, STOP_PATH, &question).await?;
    match answer {
        Found::Found(stopped) => Ok(HttpResponse::Ok().json(stopped)),
        Found::Missing | Found::NotYet => Err(Problem::new(ProblemCode::NotFound)),
    }
}

async fn executors(admin: web::Data<Admin>, operator: Operator) -> Result<HttpResponse, Problem> {
    operator.require(Role::Viewer, "list executors")?;
    let executors: Vec<ExecutorView> = ask(&admin, EXECUTORS_PATH, &json!({})).await?;
    Ok(HttpResponse::Ok().json(json!({ "data": executors })))
}

async fn invariants(admin: web::Data<Admin>, operator: Operator) -> Result<HttpResponse, Problem> {
    operator.require(Role::Viewer, "invariants")?;
    let invariants: Invariants = ask(&admin, INVARIANTS_PATH, &json!({})).await?;
    Ok(HttpResponse::Ok().json(invariants))
}

//! What operators look at: executions of all tenants, executors, invariants. And stops.

use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use domain::{ExecutionId, State};
use protocol::{
    operate::{EXECUTORS_PATH, ExecutorView, INVARIANTS_PATH, Invariants, STOP_PATH, Stop, Stopped},
    read::{EXECUTION_PATH, EXECUTIONS_PATH, ExecutionPage, ExecutionView, Found, ListExecutions, Subject},
};
use serde::Deserialize;
use serde_json::{Value, json};
use service::{Problem, ProblemCode, edge::resource};

use crate::{
    audit::Changed,
    listener::Admin,
    reply::ask,
    token::{Operator, Role},
    views,
};

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(resource("/executions", "GET").route(web::get().to(executions)))
        .service(resource("/executions/{id}", "GET").route(web::get().to(execution)))
        .service(resource("/executions/{id}/stop", "POST").route(web::post().to(stop)))
        .service(resource("/executors", "GET").route(web::get().to(executors)))
        .service(resource("/invariants", "GET").route(web::get().to(invariants)));
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Query {
    #[serde(default)]
    status: Option<State>,
    #[serde(default)]
    page_size: Option<u32>,
    #[serde(default)]
    page_token: Option<String>,
}

impl Query {
    fn wrong(name: &str, detail: &str) -> Problem {
        Problem::new(ProblemCode::InvalidRequest).field(format!("/query/{name}"), "invalid", detail)
    }

    fn limit(&self) -> Result<u32, Problem> {
        let size = self.page_size.unwrap_or(50);
        if (1..=100).contains(&size) { Ok(size) } else { Err(Self::wrong("pageSize", "between 1 and 100")) }
    }

    /// The token is the last id of the page before: without an owner, ids are the order.
    fn after(&self) -> Result<Option<(DateTime<Utc>, ExecutionId)>, Problem> {
        let Some(token) = &self.page_token else { return Ok(None) };
        let id: Option<ExecutionId> = token.parse().ok();
        let place = id.and_then(|id| Some((id.made_at()?, id)));
        place.map(Some).ok_or_else(|| Self::wrong("pageToken", "is not a token of this list"))
    }
}

async fn executions(
    admin: web::Data<Admin>,
    operator: Operator,
    query: web::Query<Query>,
) -> Result<HttpResponse, Problem> {
    operator.require(Role::Viewer)?;
    let question = ListExecutions {
        user_id: None,
        user_engine_id: None,
        states: query.status.into_iter().collect(),
        engine_id: None,
        created_after: None,
        created_before: None,
        labels: std::collections::BTreeMap::new(),
        after: query.after()?,
        limit: query.limit()?,
    };
    let page: ExecutionPage = ask(&admin, EXECUTIONS_PATH, &question).await?;
    let data: Vec<Value> = page.executions.iter().map(views::execution).collect();
    Ok(HttpResponse::Ok().json(json!({ "data": data, "nextPageToken": page.next.map(|(_, id)| id) })))
}

fn subject(id: &str) -> Result<Subject, Problem> {
    let execution_id: ExecutionId = id.parse().map_err(|_malformed| no_such_execution())?;
    Ok(Subject { user_id: None, user_engine_id: None, execution_id })
}

fn no_such_execution() -> Problem {
    Problem::new(ProblemCode::NotFound).detail("there is no such execution")
}

async fn execution(
    admin: web::Data<Admin>,
    operator: Operator,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    operator.require(Role::Viewer)?;
    let answer: Found<ExecutionView> = ask(&admin, EXECUTION_PATH, &subject(&id)?).await?;
    match answer {
        Found::Found(view) => Ok(HttpResponse::Ok().json(views::execution(&view))),
        Found::Missing | Found::NotYet => Err(no_such_execution()),
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
    let work = async {
        let question = Stop { subject: subject(&id)?, force: query.force, wait_ms: 300 };
        let answer: Found<Stopped> = ask(&admin, STOP_PATH, &question).await?;
        match answer {
            Found::Found(stopped) => Ok(Changed::new(question.subject.execution_id, HttpResponse::Ok().json(stopped))),
            Found::Missing | Found::NotYet => Err(no_such_execution()),
        }
    };
    let action = if query.force { "force-stop execution" } else { "stop execution" };
    operator.change(Role::Operator, action, &id, work).await
}

async fn executors(admin: web::Data<Admin>, operator: Operator) -> Result<HttpResponse, Problem> {
    operator.require(Role::Viewer)?;
    let executors: Vec<ExecutorView> = ask(&admin, EXECUTORS_PATH, &json!({})).await?;
    let data: Vec<Value> = executors.iter().map(views::executor).collect();
    Ok(HttpResponse::Ok().json(json!({ "data": data })))
}

async fn invariants(admin: web::Data<Admin>, operator: Operator) -> Result<HttpResponse, Problem> {
    operator.require(Role::Viewer)?;
    let invariants: Invariants = ask(&admin, INVARIANTS_PATH, &json!({})).await?;
    Ok(HttpResponse::Ok().json(invariants))
}

//! Flows become engine versions; engines are assigned.

use actix_web::{HttpResponse, web};
use domain::flow::{self, FlowProblem};
use protocol::operate::{ASSIGN_PATH, Assign, Assigned, DEPLOY_PATH, Deploy, Deployed};
use serde::Deserialize;
use serde_json::{Value, json};
use service::{Problem, ProblemCode};

use crate::{
    listener::Admin,
    reply::ask,
    token::{Operator, Role},
};

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .route("/flows/validate", web::post().to(validate))
        .route("/engines", web::post().to(deploy))
        .route("/assignments", web::post().to(assign));
}

/// A flow document.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    flow: Value,
}

/// Every problem of a flow, those of its models included.
fn problems(admin: &Admin, document: &Value) -> Result<flow::Flow, Vec<FlowProblem>> {
    let valid = flow::validate_document(document)?;
    let unknown: Vec<FlowProblem> = flow::models(&valid)
        .into_iter()
        .filter(|(_, model)| !is_known(&admin.models, model))
        .map(|(pointer, model)| FlowProblem {
            pointer,
            code: "unknown_model",
            message: format!("the model `{model}` is not configured here"),
            hint: Some(format!("configured: {}", admin.models.join(", "))),
        })
        .collect();
    if unknown.is_empty() { Ok(valid) } else { Err(unknown) }
}

fn is_known(patterns: &[String], model: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => model.starts_with(prefix),
        None => pattern == model,
    })
}

async fn validate(
    admin: web::Data<Admin>,
    operator: Operator,
    body: web::Json<Document>,
) -> Result<HttpResponse, Problem> {
    operator.require(Role::Viewer, "validate flow")?;
    let found = problems(&admin, &body.flow).err().unwrap_or_default();
    Ok(HttpResponse::Ok().json(json!({ "valid": found.is_empty(), "problems": found })))
}

async fn deploy(
    admin: web::Data<Admin>,
    operator: Operator,
    body: web::Json<Document>,
) -> Result<HttpResponse, Problem> {
    operator.require(Role::Admin, "deploy engine")?;
    let document = body.into_inner().flow;
    let valid = problems(&admin, &document).map_err(|problems| {
        let problem = Problem::new(ProblemCode::InvalidInput).detail("the flow has problems");
        problems
            .into_iter()
            .fold(problem, |problem, one| problem.field(format!("/flow{}", one.pointer), one.code, one.message))
    })?;
    let flow = serde_json::value::to_raw_value(&document).map_err(|_unwritable| Problem::new(ProblemCode::Internal))?;
    let deploy = Deploy {
        title: valid.title.clone().unwrap_or_else(|| valid.name.clone()),
        description: valid.description.clone().unwrap_or_default(),
        name: valid.name.clone(),
        flow,
    };
    let deployed: Deployed = ask(&admin, DEPLOY_PATH, &deploy).await?;
    Ok(HttpResponse::Ok().json(deployed))
}

async fn assign(admin: web::Data<Admin>, operator: Operator, body: web::Json<Assign>) -> Result<HttpResponse, Problem> {
    operator.require(Role::Admin, "assign engine")?;
    let assigned: Assigned = ask(&admin, ASSIGN_PATH, &*body).await?;
    Ok(HttpResponse::Ok().json(assigned))
}

//! Flows become engine versions; engines are assigned, and switched on and off.

use actix_web::{HttpResponse, web};
use domain::{
    EngineId, LevelId, UserId,
    flow::{self, FlowProblem},
};
use protocol::operate::{
    ASSIGN_PATH, Assign, Assigned, Assignee, DEPLOY_PATH, Deploy, Deployed, ENGINE_PATH, SetEngine,
};
use serde::Deserialize;
use serde_json::{Value, json};
use service::{Problem, ProblemCode, edge::resource};

use crate::{
    audit::Changed,
    listener::Admin,
    reply::ask,
    text,
    token::{Operator, Role},
};

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(resource("/flows/validate", "POST").route(web::post().to(validate)))
        .service(resource("/engines", "POST").route(web::post().to(deploy)))
        .service(resource("/engines/{engine}/enable", "POST").route(web::post().to(enable)))
        .service(resource("/engines/{engine}/disable", "POST").route(web::post().to(disable)))
        .service(resource("/assignments", "POST").route(web::post().to(assign)));
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
    operator.require(Role::Viewer)?;
    let found = problems(&admin, &body.flow).err().unwrap_or_default();
    Ok(HttpResponse::Ok().json(json!({ "valid": found.is_empty(), "problems": found })))
}

async fn deploy(
    admin: web::Data<Admin>,
    operator: Operator,
    body: web::Json<Document>,
) -> Result<HttpResponse, Problem> {
    let document = body.into_inner().flow;
    let named = document.get("name").and_then(Value::as_str).unwrap_or_default();
    let work = async {
        let valid = problems(&admin, &document).map_err(|problems| {
            let problem = Problem::new(ProblemCode::InvalidInput).detail("the flow has problems");
            problems
                .into_iter()
                .fold(problem, |problem, one| problem.field(format!("/flow{}", one.pointer), one.code, one.message))
        })?;
        let flow =
            serde_json::value::to_raw_value(&document).map_err(|_unwritable| Problem::new(ProblemCode::Internal))?;
        let deploy = Deploy {
            title: valid.title.clone().unwrap_or_else(|| valid.name.clone()),
            description: valid.description.clone().unwrap_or_default(),
            name: valid.name.clone(),
            flow,
        };
        let deployed: Deployed = ask(&admin, DEPLOY_PATH, &deploy).await?;
        let object = format!("{} {}", deployed.engine_id, deployed.version_id);
        Ok(Changed::new(object, HttpResponse::Ok().json(&deployed)))
    };
    operator.change(Role::Admin, "deploy engine", named, work).await
}

async fn enable(
    admin: web::Data<Admin>,
    operator: Operator,
    engine: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    set(&admin, &operator, &engine, true, "enable engine").await
}

async fn disable(
    admin: web::Data<Admin>,
    operator: Operator,
    engine: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    set(&admin, &operator, &engine, false, "disable engine").await
}

async fn set(
    admin: &Admin,
    operator: &Operator,
    engine: &str,
    enabled: bool,
    action: &'static str,
) -> Result<HttpResponse, Problem> {
    let work = async {
        let unknown = || Problem::new(ProblemCode::NotFound).detail("there is no such engine");
        text::name("/engine", engine).map_err(|_unstorable| unknown())?;
        let request = SetEngine { engine: engine.to_owned(), enabled };
        let found: Option<EngineId> = ask(admin, ENGINE_PATH, &request).await?;
        let id = found.ok_or_else(unknown)?;
        Ok(Changed::new(id, HttpResponse::Ok().json(json!({ "engineId": id, "enabled": enabled }))))
    };
    operator.change(Role::Admin, action, engine, work).await
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Assignment {
    engine_id: EngineId,
    to: Target,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Target {
    User(UserId),
    Level(LevelId),
}

async fn assign(
    admin: web::Data<Admin>,
    operator: Operator,
    body: web::Json<Assignment>,
) -> Result<HttpResponse, Problem> {
    let (to, target) = match body.to {
        Target::User(user) => (Assignee::User(user), user.to_string()),
        Target::Level(level) => (Assignee::Level(level), level.to_string()),
    };
    let object = format!("{} {target}", body.engine_id);
    let work = async {
        let assigned: Assigned = ask(&admin, ASSIGN_PATH, &Assign { engine_id: body.engine_id, to }).await?;
        Ok(Changed::new(&object, HttpResponse::Ok().json(assigned)))
    };
    operator.change(Role::Admin, "assign engine", &object, work).await
}

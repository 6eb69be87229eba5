//! Flows become engine versions; engines are assigned, and switched on and off.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use domain::{
    EngineId, LevelId, UserId,
    flow::{self, FlowProblem},
};
use protocol::{
    control::Availability,
    operate::{
        ASSIGN_PATH, Assign, Assigned, Assignee, DEPLOY_PATH, Deploy, Deployed, ENGINE_PATH, FindModels, MODELS_PATH,
        SetEngine,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use service::{Problem, ProblemCode, edge::resource};

use crate::{
    audit::Changed,
    listener::Admin,
    reply::ask,
    text,
    token::{Operator, Role},
};

/// Models that are looked up for one flow; the others are unchecked.
const MOST_MODELS: usize = 100;

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

/// A flow without problems.
struct Checked {
    flow: flow::Flow,
    /// What could not be found out.
    warnings: Vec<FlowProblem>,
}

/// Every problem of a flow, those of its models included.
async fn check(admin: &Admin, document: &Value) -> Result<Result<Checked, Vec<FlowProblem>>, Problem> {
    let flow = match flow::validate_document(document) {
        Ok(flow) => flow,
        Err(problems) => return Ok(Err(problems)),
    };
    let named = flow::models(&flow);
    let (allowed, barred): (Vec<_>, Vec<_>) = named.into_iter().partition(|(_, model)| is_known(&admin.models, model));
    let mut problems: Vec<FlowProblem> = barred.into_iter().map(|named| unlisted(admin, named)).collect();
    let mut models: Vec<String> = allowed.iter().map(|(_, model)| model.clone()).collect();
    models.sort();
    models.dedup();
    models.truncate(MOST_MODELS);
    let found: BTreeMap<String, Availability> =
        if models.is_empty() { BTreeMap::new() } else { ask(admin, MODELS_PATH, &FindModels { models }).await? };
    let mut warnings = Vec::new();
    for (pointer, model) in allowed {
        match found.get(&model).copied().unwrap_or(Availability::Unchecked) {
            Availability::Available => {}
            Availability::Missing => problems.push(unknown(pointer, format!("the provider has no model `{model}`"))),
            Availability::NoProvider => {
                problems.push(unknown(pointer, format!("no executor has the provider of the model `{model}`")));
            }
            Availability::Unchecked => warnings.push(FlowProblem {
                pointer,
                code: "unchecked_model",
                message: format!("nobody could say whether the model `{model}` exists"),
                hint: Some("no executor runs, or its provider does not answer".to_owned()),
            }),
        }
    }
    problems.sort_by(|one, other| one.pointer.cmp(&other.pointer));
    Ok(if problems.is_empty() { Ok(Checked { flow, warnings }) } else { Err(problems) })
}

fn unknown(pointer: String, message: String) -> FlowProblem {
    FlowProblem { pointer, code: "unknown_model", message, hint: None }
}

/// The operator does not allow it.
fn unlisted(admin: &Admin, (pointer, model): (String, String)) -> FlowProblem {
    FlowProblem {
        hint: Some(format!("allowed: {}", admin.models.join(", "))),
        ..unknown(pointer, format!("the model `{model}` is not allowed here"))
    }
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
    let (problems, warnings) = match check(&admin, &body.flow).await? {
        Ok(checked) => (Vec::new(), checked.warnings),
        Err(problems) => (problems, Vec::new()),
    };
    Ok(HttpResponse::Ok().json(json!({ "valid": problems.is_empty(), "problems": problems, "warnings": warnings })))
}

async fn deploy(
    admin: web::Data<Admin>,
    operator: Operator,
    body: web::Json<Document>,
) -> Result<HttpResponse, Problem> {
    let document = body.into_inner().flow;
    let named = document.get("name").and_then(Value::as_str).unwrap_or_default();
    let work = async {
        let Checked { flow: valid, warnings } = check(&admin, &document).await?.map_err(|problems| {
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
        Ok(Changed::new(object, HttpResponse::Ok().json(DeployedWith { deployed, warnings })))
    };
    operator.change(Role::Admin, "deploy engine", named, work).await
}

/// What came of a deployment, and what could not be checked.
#[derive(Debug, Serialize)]
struct DeployedWith {
    #[serde(flatten)]
    deployed: Deployed,
    warnings: Vec<FlowProblem>,
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

//! Engines: resolved for their user, compiled once per version.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{HttpResponse, web};
use domain::{UserEngineId, UserId, VersionId, flow::CompiledFlow};
use moka::future::Cache;
use protocol::identity::{ENGINES_PATH, ListEngines, Principal, RESOLVE_PATH, Resolve, ResolvedEngine};
use serde_json::{Value, json};
use service::{InternalClient, Problem, ProblemCode};

use crate::{
    auth::Caller,
    edge::{problem_response, resource},
    failure,
    service::{Gateway, READ_WITHIN},
};

/// How long a resolution is believed while status answers.
const FRESH: Duration = Duration::from_secs(5);
/// How long it is believed while status does not answer.
const STALE: Duration = Duration::from_secs(600);

type Question = (UserId, Option<UserEngineId>, String, Option<VersionId>);

#[derive(Clone)]
struct Known {
    engine: Option<Arc<ResolvedEngine>>,
    at: Instant,
}

/// Engines that were asked for lately.
pub(crate) struct Engines {
    status: InternalClient,
    resolved: Cache<Question, Known>,
    compiled: Cache<VersionId, Arc<CompiledFlow>>,
}

impl Engines {
    pub(crate) fn new(status: InternalClient) -> Self {
        let resolved = Cache::builder().max_capacity(50_000).time_to_live(STALE).build();
        let compiled = Cache::builder().max_capacity(2_000).time_to_idle(STALE).build();
        Self { status, resolved, compiled }
    }

    /// The engine that a caller means.
    ///
    /// # Errors
    /// 404 when it is not the caller's; 503 when nobody can tell.
    pub(crate) async fn resolve(
        &self,
        caller: &Principal,
        engine: &str,
        version: Option<VersionId>,
    ) -> Result<Arc<ResolvedEngine>, Problem> {
        if engine.len() > 200 {
            return Err(failure::not_found("engine"));
        }
        let question = (caller.user_id, caller.user_engine_id, engine.to_owned(), version);
        let known = self.resolved.get(&question).await;
        let answer = match known {
            Some(known) if known.at.elapsed() < FRESH => known,
            known => match self.ask(&question).await {
                Ok(answer) => {
                    self.resolved.insert(question, answer.clone()).await;
                    answer
                }
                Err(error) => known.ok_or_else(|| failure::internal(&error))?,
            },
        };
        answer.engine.ok_or_else(|| failure::not_found("engine"))
    }

    async fn ask(&self, question: &Question) -> Result<Known, service::InternalError> {
        let (user_id, user_engine_id, engine, version_id) = question.clone();
        let question = Resolve { user_id, user_engine_id, engine, version_id };
        let engine: Option<ResolvedEngine> = self.status.post_json(RESOLVE_PATH, &question, READ_WITHIN).await?;
        Ok(Known { engine: engine.map(Arc::new), at: Instant::now() })
    }

    /// The compiled flow of a version: compiled once.
    ///
    /// # Errors
    /// 500 when the stored flow is none of this release, which a deployed one never is.
    pub(crate) async fn compiled(&self, engine: &ResolvedEngine) -> Result<Arc<CompiledFlow>, Problem> {
        let compile = async {
            let document: Value = serde_json::from_str(engine.flow.get()).map_err(|error| error.to_string())?;
            let compiled = CompiledFlow::from_document(&document);
            compiled.map(Arc::new).map_err(|problems| format!("{} problems", problems.len()))
        };
        self.compiled.try_get_with(engine.version_id, compile).await.map_err(|error| {
            tracing::error!(engine.id = %engine.engine_id, %error, "a deployed flow cannot be compiled");
            Problem::new(ProblemCode::Internal)
        })
    }
}

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(resource("/v1/engines", "GET").route(web::get().to(list)))
        .service(resource("/v1/engines/{engine}", "GET").route(web::get().to(get)))
        .service(resource("/v1/engines/{engine}/schema", "GET").route(web::get().to(schema)));
}

/// What a user sees of an engine.
pub(crate) fn view(engine: &ResolvedEngine) -> Value {
    json!({
        "engineId": engine.engine_id,
        "userEngineId": engine.user_engine_id,
        "name": engine.name,
        "title": engine.title,
        "description": engine.description,
        "enabled": engine.enabled,
        "engineVersionId": engine.version_id,
        "versionNumber": engine.version_number,
    })
}

/// The engines of the caller, by name.
pub(crate) async fn owned(gateway: &Gateway, caller: &Principal) -> Result<Vec<ResolvedEngine>, Problem> {
    let question = ListEngines { user_id: caller.user_id, user_engine_id: caller.user_engine_id };
    gateway.ask(ENGINES_PATH, &question).await.map_err(|error| failure::internal(&error))
}

async fn list(gateway: web::Data<Gateway>, caller: Caller) -> HttpResponse {
    match owned(&gateway, &caller).await {
        Ok(engines) => {
            let data: Vec<Value> = engines.iter().map(view).collect();
            HttpResponse::Ok().json(json!({ "data": data, "nextPageToken": null }))
        }
        Err(problem) => problem_response(problem),
    }
}

async fn get(gateway: web::Data<Gateway>, caller: Caller, engine: web::Path<String>) -> HttpResponse {
    match gateway.engines.resolve(&caller, &engine, None).await {
        Ok(engine) => HttpResponse::Ok().json(view(&engine)),
        Err(problem) => problem_response(problem),
    }
}

/// The JSON Schema of the engine's input.
async fn schema(gateway: web::Data<Gateway>, caller: Caller, engine: web::Path<String>) -> HttpResponse {
    let found = async {
        let engine = gateway.engines.resolve(&caller, &engine, None).await?;
        gateway.engines.compiled(&engine).await
    };
    match found.await {
        Ok(flow) => HttpResponse::Ok().content_type("application/schema+json").json(flow.form().json_schema()),
        Err(problem) => problem_response(problem),
    }
}

//! Engines: resolved for their user, compiled once per version.

use std::{sync::Arc, time::Duration};

use actix_web::{HttpResponse, web};
use domain::{
    EngineId, UserEngineId, UserId, VersionId,
    flow::{CompiledFlow, is_flow_name},
};
use futures::FutureExt as _;
use moka::future::Cache;
use protocol::identity::{ENGINES_PATH, ListEngines, Principal, RESOLVE_PATH, Resolve, ResolvedEngine};
use serde_json::{Value, json};
use service::{InternalClient, Problem, ProblemCode, Shutdown};

use crate::{
    auth::Caller,
    edge::problem_response,
    failure,
    memory::{Memory, WITHIN},
    routes::{self, Entry},
    service::Gateway,
};

/// How long a compiled flow is kept without use.
const COMPILED_FOR: Duration = Duration::from_secs(600);
/// Resolutions remembered at most.
const CAPACITY: u64 = 50_000;

type Question = (UserId, Option<UserEngineId>, String, Option<VersionId>);

/// Engines that were asked for lately.
pub(crate) struct Engines {
    status: InternalClient,
    resolved: Memory<Question, Option<Arc<ResolvedEngine>>>,
    compiled: Cache<VersionId, Arc<CompiledFlow>>,
}

/// Whether a text can mean an engine: an id of one, of a copy, or a name.
fn can_be_engine(text: &str) -> bool {
    text.parse::<EngineId>().is_ok() || text.parse::<UserEngineId>().is_ok() || is_flow_name(text)
}

impl Engines {
    pub(crate) fn new(status: InternalClient, shutdown: Shutdown) -> Self {
        let resolved = Memory::new(CAPACITY, Option::is_some, shutdown);
        let compiled = Cache::builder().max_capacity(2_000).time_to_idle(COMPILED_FOR).build();
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
        version_id: Option<VersionId>,
    ) -> Result<Arc<ResolvedEngine>, Problem> {
        if !can_be_engine(engine) {
            return Err(failure::not_found("engine"));
        }
        let (user_id, user_engine_id) = (caller.user_id, caller.user_engine_id);
        let ask = || {
            let question = Resolve { user_id, user_engine_id, engine: engine.to_owned(), version_id };
            let status = self.status.clone();
            async move {
                let engine: Option<ResolvedEngine> = status.post_json(RESOLVE_PATH, &question, WITHIN).await?;
                Ok(engine.map(Arc::new))
            }
            .boxed()
        };
        let answer = self.resolved.get((user_id, user_engine_id, engine.to_owned(), version_id), ask).await;
        answer.map_err(|error| failure::internal(&error))?.ok_or_else(|| failure::not_found("engine"))
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

pub(crate) fn routes() -> Vec<Entry> {
    vec![
        routes::get("/v1/engines", list),
        routes::get("/v1/engines/{engine}", get),
        routes::get("/v1/engines/{engine}/schema", schema),
    ]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_id_or_a_name_can_be_an_engine() {
        for text in
            ["field-guide", "e2", "eng_0198c0de4f7a7000a000000000000001", "uen_0198c0de4f7a7000a000000000000001"]
        {
            assert!(can_be_engine(text), "{text}");
        }
        for text in ["", "\0", "Field", "a b", "field-", "exec_0198c0de4f7a7000a000000000000001", &"a".repeat(64)] {
            assert!(!can_be_engine(text), "{text}");
        }
    }
}

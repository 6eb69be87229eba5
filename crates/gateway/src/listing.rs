//! Lists of executions: what they are filtered by, and their pages.

use std::collections::BTreeMap;

use actix_web::HttpRequest;
use chrono::{DateTime, Utc};
use domain::{EngineId, State};
use protocol::{
    identity::Principal,
    read::{EXECUTIONS_PATH, ExecutionPage, ListExecutions},
};
use service::{Problem, ProblemCode};

use crate::{
    accept::Dialect,
    failure, legacy, page,
    query::{self, wrong},
    service::Gateway,
};

/// A page of the caller's executions and the token of the next one.
pub(crate) async fn page_of(
    gateway: &Gateway,
    caller: &Principal,
    request: &HttpRequest,
    dialect: Dialect,
) -> Result<(ExecutionPage, Option<String>), Problem> {
    let filter = Filter::read(request, dialect)?;
    let bound = format!("{}|{:?}|{}", caller.user_id, caller.user_engine_id, filter.text);
    let after = match &filter.page_token {
        Some(token) => {
            let place = page::read(&gateway.link_secret, &bound, token);
            Some(place.ok_or_else(|| wrong("pageToken", "is not a token of this filter"))?)
        }
        None => None,
    };
    let engine_id = match &filter.engine {
        Some(engine) => Some(engine_id(gateway, caller, engine).await?),
        None => None,
    };
    let query = ListExecutions {
        user_id: Some(caller.user_id),
        user_engine_id: caller.user_engine_id,
        states: filter.states,
        engine_id,
        created_after: filter.created_after,
        created_before: filter.created_before,
        labels: filter.labels,
        after,
        limit: filter.page_size,
    };
    let page: ExecutionPage = gateway.ask(EXECUTIONS_PATH, &query).await.map_err(|error| failure::internal(&error))?;
    let next = page.next.map(|(at, id)| page::token(&gateway.link_secret, &bound, at, id));
    Ok((page, next))
}

/// The engine of a filter: an id is taken as it is, so that what ran on an engine of the past can still be listed.
async fn engine_id(gateway: &Gateway, caller: &Principal, engine: &str) -> Result<EngineId, Problem> {
    if let Ok(id) = engine.parse() {
        return Ok(id);
    }
    match gateway.engines.resolve(caller, engine, None).await {
        Ok(engine) => Ok(engine.engine_id),
        Err(problem) if problem.code == ProblemCode::NotFound => Err(wrong("engine", "is not an engine of yours")),
        Err(problem) => Err(problem),
    }
}

/// The query of a list.
struct Filter {
    states: Vec<State>,
    engine: Option<String>,
    created_after: Option<DateTime<Utc>>,
    created_before: Option<DateTime<Utc>>,
    labels: BTreeMap<String, String>,
    page_size: u32,
    page_token: Option<String>,
    /// Everything but the paging, in one canonical form: what a token is bound to.
    text: String,
}

impl Filter {
    fn read(request: &HttpRequest, dialect: Dialect) -> Result<Self, Problem> {
        let mut filter = Self {
            states: Vec::new(),
            engine: None,
            created_after: None,
            created_before: None,
            labels: BTreeMap::new(),
            page_size: 20,
            page_token: None,
            text: String::new(),
        };
        let mut named: Vec<(String, String)> = Vec::new();
        for (name, value) in query::read(request)? {
            filter.set(&name, &value, dialect)?;
            if !matches!(&*name, "pageToken" | "pageSize") {
                named.push((name, value));
            }
        }
        named.sort();
        filter.text = format!("{named:?}");
        Ok(filter)
    }

    fn set(&mut self, name: &str, value: &str, dialect: Dialect) -> Result<(), Problem> {
        match name {
            "status" => {
                for word in value.split(',') {
                    let means = |state: &State| match dialect {
                        Dialect::V1 => state.as_str() == word,
                        Dialect::Legacy => state.as_str() == word || legacy::word(*state) == word,
                    };
                    let states: Vec<State> = State::ALL.into_iter().filter(means).collect();
                    if states.is_empty() {
                        return Err(wrong("status", "is not a status"));
                    }
                    self.states.extend(states);
                }
            }
            "engine" => self.engine = Some(value.to_owned()),
            "createdAfter" => self.created_after = Some(instant(name, value)?),
            "createdBefore" => self.created_before = Some(instant(name, value)?),
            "pageSize" => {
                let size = value.parse().ok().filter(|size| (1..=100).contains(size));
                self.page_size = size.ok_or_else(|| wrong("pageSize", "is a number from 1 to 100"))?;
            }
            "pageToken" => self.page_token = Some(value.to_owned()),
            _ => match name.strip_prefix("label.") {
                Some(label) if !label.contains('\0') && !value.contains('\0') => {
                    self.labels.insert(label.to_owned(), value.to_owned());
                }
                _ => return Err(query::unknown(name)),
            },
        }
        Ok(())
    }
}

fn instant(name: &str, value: &str) -> Result<DateTime<Utc>, Problem> {
    let at = DateTime::parse_from_rfc3339(value).map_err(|_malformed| wrong(name, "is an RFC 3339 timestamp"))?;
    Ok(at.with_timezone(&Utc))
}

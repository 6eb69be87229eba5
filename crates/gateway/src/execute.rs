//! `POST /v1/engines/{engine}/execute`: from a body to a submission to a 202.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{EngineId, ExecutionId, FailureCode, Priority, Sequence, UserEngineId, VersionId};
use protocol::{
    identity::{Principal, ResolvedEngine},
    read::Subject,
    submission::{Idempotency, Parent, QueueBlock, Submission, SubmissionOutcome},
};
use serde::Deserialize;
use serde_json::{Value, json};
use service::{Problem, ProblemCode};
use sha2::{Digest as _, Sha256};

use crate::{
    auth::Caller,
    body::JsonBody,
    edge::{problem_response, resource},
    executions, failure, form,
    service::Gateway,
    submit::Outcome,
};

/// The longest `Prefer: wait`.
const WAIT_AT_MOST: u64 = 60;
/// Marks at most, and their size.
const LABELS: usize = 32;
const LABEL_NAME: usize = 64;
const LABEL_VALUE: usize = 256;
/// An owner's own customer.
const END_USER: usize = 256;
/// The longest deadline: thirty days.
const DEADLINE_AT_MOST: u64 = 30 * 24 * 3_600_000;

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    for path in ["/v1/engines/{engine}/execute", "/v1/engines/{engine}/executions"] {
        config.service(resource(path, "POST").route(web::post().to(execute)));
    }
}

/// The body of a submission.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Execute {
    #[serde(alias = "userInput")]
    pub(crate) input: Option<Value>,
    #[serde(default)]
    pub(crate) priority: Option<Priority>,
    #[serde(default)]
    pub(crate) labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(crate) end_user: Option<String>,
    #[serde(default)]
    pub(crate) deadline_ms: Option<u64>,
    #[serde(default)]
    pub(crate) queue_ttl_ms: Option<u64>,
    #[serde(default)]
    pub(crate) validate_only: bool,
    #[serde(default)]
    pub(crate) version: Option<VersionId>,
}

/// What is submitted, however it was asked for.
pub(crate) struct Order {
    pub(crate) engine_id: EngineId,
    pub(crate) user_engine_id: Option<UserEngineId>,
    pub(crate) version_id: VersionId,
    pub(crate) input: Box<serde_json::value::RawValue>,
    pub(crate) priority: Priority,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) end_user: Option<String>,
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) queue_ttl_ms: Option<u64>,
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) parent: Option<Parent>,
}

/// Where the answer points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `/v1`.
    V1,
    /// `/engines-api`.
    Legacy,
}

async fn execute(
    gateway: web::Data<Gateway>,
    caller: Caller,
    engine: web::Path<String>,
    request: HttpRequest,
    body: JsonBody,
) -> HttpResponse {
    match run(&gateway, &caller, &engine, &request, body, Dialect::V1).await {
        Ok(response) => response,
        Err(problem) => problem_response(problem),
    }
}

/// The whole of it, in the dialect of the path.
pub(crate) async fn run(
    gateway: &Gateway,
    caller: &Principal,
    engine: &str,
    request: &HttpRequest,
    body: JsonBody,
    dialect: Dialect,
) -> Result<HttpResponse, Problem> {
    let wait = prefer_wait(request);
    let key = idempotency_key(request)?;
    let hash = key.as_ref().map(|_| body_hash(&body.value));
    let both = body.value.get("input").is_some() && body.value.get("userInput").is_some();
    let execute: Execute = body.read()?;
    if both {
        let twice = "give `input` or `userInput`, not both";
        return Err(Problem::new(ProblemCode::InvalidRequest).detail(twice).field("/userInput", "duplicate", twice));
    }
    check_options(caller, &execute)?;
    let engine = gateway.engines.resolve(caller, engine, execute.version).await?;
    if !engine.enabled {
        return Err(Problem::new(ProblemCode::EngineDisabled));
    }
    let flow = gateway.engines.compiled(&engine).await?;
    let input = execute.input.clone().unwrap_or_else(|| json!({}));
    let input = form::check(&flow, &input)?;
    if execute.validate_only {
        return Ok(HttpResponse::Ok().json(json!({
            "valid": true, "engineId": engine.engine_id, "engineVersionId": engine.version_id, "input": input,
        })));
    }
    let input = serde_json::value::to_raw_value(&input).map_err(|_unwritable| Problem::new(ProblemCode::Internal))?;
    let route = format!("execute/{}", engine.engine_id);
    let idempotency = key.zip(hash).map(|(key, body_hash)| Idempotency { route, key, body_hash });
    let order = order(&engine, execute, input, idempotency);
    submit(gateway, caller, order, wait, dialect).await
}

fn order(
    engine: &Arc<ResolvedEngine>,
    execute: Execute,
    input: Box<serde_json::value::RawValue>,
    idempotency: Option<Idempotency>,
) -> Order {
    Order {
        engine_id: engine.engine_id,
        user_engine_id: engine.user_engine_id,
        version_id: engine.version_id,
        input,
        priority: execute.priority.unwrap_or_default(),
        labels: execute.labels.unwrap_or_default(),
        end_user: execute.end_user,
        deadline_ms: execute.deadline_ms,
        queue_ttl_ms: execute.queue_ttl_ms,
        idempotency,
        parent: None,
    }
}

fn check_options(caller: &Principal, execute: &Execute) -> Result<(), Problem> {
    let mut problem = Problem::new(ProblemCode::InvalidInput).detail("an option is not allowed");
    if execute.priority.is_some_and(|priority| priority > caller.level.max_priority) {
        problem = problem.field("/priority", "too_high", "your level does not allow this priority");
    }
    for (name, value) in execute.labels.iter().flatten() {
        let pointer = format!("/labels/{}", name.replace('~', "~0").replace('/', "~1"));
        if name.is_empty() || name.len() > LABEL_NAME || value.len() > LABEL_VALUE {
            problem = problem.field(pointer, "too_long", "names have 1 to 64 bytes, values at most 256");
        } else if name.contains('\0') || value.contains('\0') {
            problem = problem.field(pointer.replace('\0', "\u{fffd}"), "nul", "must not contain the character U+0000");
        }
    }
    if execute.labels.as_ref().is_some_and(|labels| labels.len() > LABELS) {
        problem = problem.field("/labels", "too_many", format!("at most {LABELS} labels"));
    }
    if execute.end_user.as_ref().is_some_and(|name| name.len() > END_USER || name.contains('\0')) {
        problem = problem.field("/endUser", "invalid", format!("at most {END_USER} bytes, without U+0000"));
    }
    for (pointer, value) in [("/deadlineMs", execute.deadline_ms), ("/queueTtlMs", execute.queue_ttl_ms)] {
        if value.is_some_and(|ms| ms == 0 || ms > DEADLINE_AT_MOST) {
            problem = problem.field(pointer, "out_of_range", format!("1 to {DEADLINE_AT_MOST}"));
        }
    }
    if problem.errors.is_empty() { Ok(()) } else { Err(problem) }
}

/// Submits an order and answers in its dialect.
pub(crate) async fn submit(
    gateway: &Gateway,
    caller: &Principal,
    order: Order,
    wait: Option<Duration>,
    dialect: Dialect,
) -> Result<HttpResponse, Problem> {
    let now = gateway.clock.now();
    let id = ExecutionId::generate();
    let after = |ms: Option<u64>| ms.and_then(|ms| i64::try_from(ms).ok()).map(|ms| now + TimeDelta::milliseconds(ms));
    let reply_only = order.idempotency.is_some();
    let submission = Submission {
        execution_id: id,
        user_id: caller.user_id,
        engine_id: order.engine_id,
        user_engine_id: order.user_engine_id,
        version_id: order.version_id,
        key_id: caller.key_id,
        input: order.input,
        priority: order.priority,
        labels: order.labels,
        end_user: order.end_user,
        submitted_at: now,
        deadline_at: after(order.deadline_ms),
        queue_deadline_at: after(order.queue_ttl_ms),
        idempotency: order.idempotency,
        parent: order.parent,
        trace: crate::trace::current(),
    };
    let accepted =
        Accepted { id, engine_id: order.engine_id, version_id: order.version_id, created_at: now, queue: None };
    let (accepted, replayed) = match gateway.submitter.submit(submission, reply_only).await {
        Outcome::Replied(outcome) => settled(accepted, outcome)?,
        Outcome::Confirmed => (accepted, false),
        Outcome::NotTaken => return Err(failure::unavailable()),
        Outcome::Unknown => return Err(may_have_been_accepted(id)),
    };
    if let Some(wait) = wait
        && let Some(response) = finished(gateway, caller, accepted.id, wait, replayed).await?
    {
        return Ok(response);
    }
    Ok(accepted.response(gateway, replayed, dialect))
}

/// What a 202 says.
struct Accepted {
    id: ExecutionId,
    engine_id: EngineId,
    version_id: VersionId,
    created_at: DateTime<Utc>,
    queue: Option<QueueBlock>,
}

fn settled(accepted: Accepted, outcome: SubmissionOutcome) -> Result<(Accepted, bool), Problem> {
    match outcome {
        SubmissionOutcome::Accepted { queue } => Ok((Accepted { queue, ..accepted }, false)),
        SubmissionOutcome::Replayed { execution_id, version_id, created_at } => {
            Ok((Accepted { id: execution_id, version_id, created_at, ..accepted }, true))
        }
        SubmissionOutcome::Mismatch => {
            Err(Problem::new(ProblemCode::IdempotencyMismatch)
                .detail("this Idempotency-Key was used with another body"))
        }
        SubmissionOutcome::NotResumable { detail } => Err(Problem::new(ProblemCode::NotResumable).detail(detail)),
        SubmissionOutcome::Rejected { code, detail, retry_after_ms } => {
            let problem = Problem::new(match code {
                FailureCode::QueueFull => ProblemCode::QueueFull,
                FailureCode::EngineDisabled => ProblemCode::EngineDisabled,
                FailureCode::QuotaExceeded => ProblemCode::QuotaExceeded,
                _ => ProblemCode::InvalidRequest,
            })
            .detail(format!("{detail} ({})", accepted.id));
            Err(match retry_after_ms {
                Some(ms) if problem.retryable => problem.retry_after(Duration::from_millis(ms)),
                _ => problem,
            })
        }
    }
}

/// The publish may have reached the broker: the client learns the id, so that it can look before it tries again.
fn may_have_been_accepted(id: ExecutionId) -> Problem {
    let detail = format!("{id} may have been accepted; look it up before you submit again, or use an Idempotency-Key");
    failure::unavailable().detail(detail)
}

impl Accepted {
    fn response(&self, gateway: &Gateway, replayed: bool, dialect: Dialect) -> HttpResponse {
        let base = &gateway.public_url;
        let path = match dialect {
            Dialect::V1 => "v1",
            Dialect::Legacy => "engines-api",
        };
        let url = format!("{base}/{path}/executions/{}", self.id);
        let mut body = json!({
            "executionId": self.id,
            "status": "queued",
            "engineId": self.engine_id,
            "engineVersionId": self.version_id,
            "createdAt": crate::views::timestamp(self.created_at),
            "statusUrl": url,
            "eventsUrl": format!("{base}/v1/executions/{}/events", self.id),
        });
        if let (Some(queue), Some(fields)) = (&self.queue, body.as_object_mut()) {
            fields.insert("queue".to_owned(), crate::views::queue(queue));
        }
        let mut response = HttpResponse::Accepted();
        response.insert_header((header::LOCATION, url)).insert_header((header::RETRY_AFTER, "2"));
        if replayed {
            response.insert_header(("Idempotency-Replayed", "true"));
        }
        response.json(body)
    }
}

/// Waits on the event stream for the end; the terminal object if it came in time.
async fn finished(
    gateway: &Gateway,
    caller: &Principal,
    id: ExecutionId,
    wait: Duration,
    replayed: bool,
) -> Result<Option<HttpResponse>, Problem> {
    let subject = Subject { user_id: Some(caller.user_id), user_engine_id: caller.user_engine_id, execution_id: id };
    let mut stream = gateway.hub.subscribe(subject, Sequence::START);
    let ended = tokio::time::timeout(wait, async {
        while let Ok(events) = stream.next().await {
            if events.iter().any(|event| event.is_terminal()) {
                return true;
            }
        }
        false
    });
    if !ended.await.unwrap_or(false) {
        return Ok(None);
    }
    let view = executions::read(gateway, caller, id).await?;
    let mut response = HttpResponse::Ok();
    response.insert_header(("Preference-Applied", format!("wait={}", wait.as_secs())));
    if replayed {
        response.insert_header(("Idempotency-Replayed", "true"));
    }
    Ok(Some(response.json(crate::views::execution(gateway, &view))))
}

/// `Prefer: wait=N` in seconds (RFC 7240); what cannot be read is no preference.
pub(crate) fn prefer_wait(request: &HttpRequest) -> Option<Duration> {
    let preferences = request.headers().get_all("prefer").filter_map(|value| value.to_str().ok());
    let wait = preferences
        .flat_map(|value| value.split(','))
        .find_map(|preference| preference.trim().strip_prefix("wait="))?
        .trim_matches('"')
        .parse::<u64>()
        .ok()?;
    (wait > 0).then(|| Duration::from_secs(wait.min(WAIT_AT_MOST)))
}

/// The Idempotency-Key header: a quoted or bare string of 1 to 255 printable bytes.
pub(crate) fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let mut values = request.headers().get_all("idempotency-key");
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = |detail: &str| Problem::new(ProblemCode::InvalidRequest).detail(format!("Idempotency-Key: {detail}"));
    if values.next().is_some() {
        return Err(wrong("given twice"));
    }
    let text = value.to_str().map_err(|_unprintable| wrong("must be printable ASCII"))?.trim();
    let text = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    if text.is_empty() || text.len() > 255 || text.contains('"') {
        return Err(wrong("1 to 255 characters, without quotes inside"));
    }
    Ok(Some(text.to_owned()))
}

/// SHA-256 over the JSON value: equal values have equal hashes, however they were written.
pub(crate) fn body_hash(value: &Value) -> String {
    let mut hasher = Sha256::new();
    digest(value, &mut hasher);
    hex::encode(hasher.finalize())
}

fn digest(value: &Value, hasher: &mut Sha256) {
    match value {
        Value::Array(items) => {
            hasher.update(b"[");
            for item in items {
                digest(item, hasher);
                hasher.update(b",");
            }
            hasher.update(b"]");
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            hasher.update(b"{");
            for (name, value) in sorted {
                hasher.update(Value::String(name.clone()).to_string());
                hasher.update(b":");
                digest(value, hasher);
                hasher.update(b",");
            }
            hasher.update(b"}");
        }
        scalar => hasher.update(scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_equal_hashes() {
        let one = json!({"input": {"a": 1, "b": [true, null]}, "labels": {}});
        let same: Value = serde_json::from_str(r#"{"labels":{},"input":{"b":[true,null],"a":1}}"#).unwrap();
        let other = json!({"input": {"a": 1, "b": [null, true]}, "labels": {}});

        assert_eq!(body_hash(&one), body_hash(&same));
        assert_ne!(body_hash(&one), body_hash(&other));
    }
}

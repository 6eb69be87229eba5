//! From an order to an accepted execution, and the answer that says so.

use std::{collections::BTreeMap, time::Duration};

use actix_web::{HttpResponse, http::header};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{EngineId, ExecutionId, FailureCode, Priority, UserEngineId, VersionId};
use protocol::{
    identity::Principal,
    submission::{AskReplay, Idempotency, Parent, QueueBlock, REPLAY_PATH, Replay, Submission, SubmissionOutcome},
};
use serde_json::{Map, Value, json, value::RawValue};
use service::{Problem, ProblemCode};

use crate::{failure, legacy, service::Gateway, submit::Outcome, views, wait};

/// What is submitted, however it was asked for.
pub(crate) struct Order {
    pub(crate) engine_id: EngineId,
    pub(crate) user_engine_id: Option<UserEngineId>,
    pub(crate) version_id: VersionId,
    pub(crate) input: Box<RawValue>,
    pub(crate) priority: Priority,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) end_user: Option<String>,
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) queue_ttl_ms: Option<u64>,
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) parent: Option<Parent>,
}

/// Whose words the answer has, and where it points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `/v1`.
    V1,
    /// `/engines-api`.
    Legacy,
}

/// What a 202 says.
#[derive(Debug)]
pub(crate) struct Accepted {
    id: ExecutionId,
    engine_id: EngineId,
    version_id: VersionId,
    created_at: DateTime<Utc>,
    queue: Option<QueueBlock>,
    /// It was accepted before, under the same Idempotency-Key.
    replayed: bool,
}

/// Submits an order.
///
/// # Errors
/// 409, 422 or 429 when status refuses it; 503 when it was not taken, or when nobody knows: then it names the id.
pub(crate) async fn submit(gateway: &Gateway, caller: &Principal, order: Order) -> Result<Accepted, Problem> {
    let now = gateway.clock.now();
    let id = ExecutionId::generate();
    let after = |ms: Option<u64>| ms.and_then(|ms| i64::try_from(ms).ok()).map(|ms| now + TimeDelta::milliseconds(ms));
    let keyed = order.idempotency.is_some();
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
    let accepted = Accepted {
        id,
        engine_id: order.engine_id,
        version_id: order.version_id,
        created_at: now,
        queue: None,
        replayed: false,
    };
    match gateway.submitter.submit(submission, keyed).await {
        Outcome::Replied(outcome) => settled(accepted, outcome),
        Outcome::Confirmed => Ok(accepted),
        Outcome::NotTaken => Err(failure::unavailable()),
        Outcome::Unknown => Err(may_have_been_accepted(id, keyed)),
    }
}

/// What was accepted before under the key of a request that would be refused now: a client that missed the first answer must
/// learn that its execution runs.
///
/// # Errors
/// The refusal when nothing was; 503 when nobody knows.
pub(crate) async fn replay(
    gateway: &Gateway,
    caller: &Principal,
    idempotency: Idempotency,
    refusal: Problem,
) -> Result<Accepted, Problem> {
    let question = AskReplay { user_id: caller.user_id, idempotency };
    let known: Option<Replay> = gateway.ask(REPLAY_PATH, &question).await.map_err(|error| failure::internal(&error))?;
    let Some(Replay { execution_id: id, engine_id, version_id, created_at }) = known else { return Err(refusal) };
    Ok(Accepted { id, engine_id, version_id, created_at, queue: None, replayed: true })
}

fn settled(accepted: Accepted, outcome: SubmissionOutcome) -> Result<Accepted, Problem> {
    match outcome {
        SubmissionOutcome::Accepted { queue } => Ok(Accepted { queue, ..accepted }),
        SubmissionOutcome::Replayed { execution_id, version_id, created_at } => {
            Ok(Accepted { id: execution_id, version_id, created_at, replayed: true, ..accepted })
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
            });
            let problem = problem.detail(format!("{detail} ({})", accepted.id)).execution(accepted.id.to_string());
            Err(match retry_after_ms {
                Some(ms) if problem.retryable => problem.retry_after(Duration::from_millis(ms)),
                _ => problem,
            })
        }
    }
}

/// The publish may have reached the broker: the client learns the id. With a key the same request is safe to repeat; without
/// one it might run twice.
fn may_have_been_accepted(id: ExecutionId, keyed: bool) -> Problem {
    let problem = if keyed {
        let detail = format!("{id} may have been accepted: repeat the request with the same Idempotency-Key");
        failure::unavailable().detail(detail)
    } else {
        let detail = format!("{id} may have been accepted: look it up before you submit again");
        Problem { retryable: false, ..Problem::new(ProblemCode::Unavailable) }.detail(detail)
    };
    problem.execution(id.to_string())
}

/// What an answer says and how.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) dialect: Dialect,
    /// How long the client prefers to wait for the end.
    pub(crate) wait: Option<Duration>,
    /// Fields beside those of a submission.
    pub(crate) extra: Map<String, Value>,
}

impl Accepted {
    /// The 202, or the end of the execution if it comes in the time that the client prefers to wait.
    pub(crate) async fn answer(self, gateway: &Gateway, caller: &Principal, answer: Answer) -> HttpResponse {
        let ended = match answer.wait {
            Some(wait) => Box::pin(wait::for_end(gateway, caller, self.id, wait)).await.map(|view| (view, wait)),
            None => None,
        };
        let (mut response, mut body) = match ended {
            Some((view, wait)) => {
                let mut response = HttpResponse::Ok();
                response.insert_header(("Preference-Applied", format!("wait={}", wait.as_secs())));
                let body = match answer.dialect {
                    Dialect::V1 => views::execution(gateway, &view),
                    Dialect::Legacy => legacy::execution(gateway, &view),
                };
                (response, body)
            }
            None => self.accepted(gateway, answer.dialect),
        };
        if self.replayed {
            response.insert_header(("Idempotency-Replayed", "true"));
        }
        if let Some(fields) = body.as_object_mut() {
            fields.extend(answer.extra);
        }
        response.json(body)
    }

    fn accepted(&self, gateway: &Gateway, dialect: Dialect) -> (actix_web::HttpResponseBuilder, Value) {
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
            "createdAt": views::timestamp(self.created_at),
            "statusUrl": url,
            "eventsUrl": format!("{base}/v1/executions/{}/events", self.id),
        });
        if let (Some(queue), Some(fields)) = (&self.queue, body.as_object_mut()) {
            fields.insert("queue".to_owned(), views::queue(queue));
        }
        let mut response = HttpResponse::Accepted();
        response.insert_header((header::LOCATION, url)).insert_header((header::RETRY_AFTER, "2"));
        (response, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uncertain_submission_may_be_repeated_only_with_a_key() {
        let id = ExecutionId::generate();
        let (keyed, plain) = (may_have_been_accepted(id, true), may_have_been_accepted(id, false));

        for problem in [&keyed, &plain] {
            assert_eq!((problem.status, problem.execution_id.as_deref()), (503, Some(id.to_string().as_str())));
        }
        assert!(keyed.retryable && keyed.retry_after_ms.is_some());
        assert!(!plain.retryable && plain.retry_after_ms.is_none());
        assert_ne!(keyed.detail, plain.detail);
    }
}

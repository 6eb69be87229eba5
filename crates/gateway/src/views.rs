//! What users see of an execution. These shapes have no field for money.

use chrono::{DateTime, SecondsFormat, Utc};
use domain::{State, WaitingReason};
use protocol::{read::ExecutionView, report::DeliverableRow, submission::QueueBlock};
use serde_json::{Map, Value, json};
use service::{Problem, ProblemCode};

use crate::{deliverables, restart, service::Gateway};

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn timestamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The place in the queue.
pub(crate) fn queue(block: &QueueBlock) -> Value {
    let mut value = json!({
        "position": block.position,
        "ahead": block.ahead,
        "waitingReason": block.waiting_reason,
        "asOf": timestamp(block.as_of),
    });
    if let (Some(eta), Some(fields)) = (block.eta_ms, value.as_object_mut()) {
        fields.insert("etaMs".to_owned(), json!({ "p50": eta.p50, "p90": eta.p90 }));
    }
    value
}

/// The body of `GET /v1/executions/{id}`, and of every terminal answer.
pub(crate) fn execution(gateway: &Gateway, view: &ExecutionView) -> Value {
    let total = view.input_tokens + view.output_tokens;
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    put("executionId", json!(view.execution_id));
    put("status", json!(view.state.as_str()));
    if view.state == State::Waiting {
        put("waiting", json!({ "reason": view.waiting_reason.map(reason), "until": view.wake_at.map(timestamp) }));
    }
    put("engineId", json!(view.engine_id));
    put("engineName", json!(view.engine_name));
    put("userEngineId", json!(view.user_engine_id));
    put("engineVersionId", json!(view.version_id));
    put("attempt", json!(view.attempt));
    put("priority", json!(view.priority));
    put("progress", progress(view));
    put(
        "usage",
        json!({ "input": view.input_tokens, "output": view.output_tokens, "total": total, "kind": "included" }),
    );
    if let Some(block) = &view.queue {
        put("queue", queue(block));
    }
    if let Some(stop) = &view.stop {
        put(
            "stop",
            json!({
                "requestedAt": timestamp(stop.requested_at),
                "executorAckAt": stop.executor_ack_at.map(timestamp),
                "upstreamClosedAt": stop.upstream_closed_at.map(timestamp),
                "closedBy": stop.closed_by,
                "finishedAt": stop.finished_at.map(timestamp),
                "tokensAtStop": stop.tokens_at_stop,
            }),
        );
    }
    if let Some(result) = &view.result {
        put("result", serde_json::from_str(result.get()).unwrap_or_default());
    }
    if let Some(error) = error(view) {
        put("error", error);
    }
    put("deliverables", view.deliverables.iter().map(|file| deliverable(gateway, view, file)).collect());
    put("labels", json!(view.labels));
    put("endUser", json!(view.end_user));
    put("parentId", json!(view.parent_id));
    put("createdAt", json!(timestamp(view.created_at)));
    put("startedAt", json!(view.started_at.map(timestamp)));
    put("completedAt", json!(view.finished_at.map(timestamp)));
    put("deadlineAt", json!(view.deadline_at.map(timestamp)));
    put("lastSequence", json!(view.last_sequence));
    Value::Object(body)
}

const fn reason(reason: WaitingReason) -> &'static str {
    match reason {
        WaitingReason::Approval => "approval",
        WaitingReason::Provider => "provider",
        WaitingReason::Retry => "retry",
        WaitingReason::Scheduled => "scheduled",
    }
}

fn progress(view: &ExecutionView) -> Value {
    let of = &view.progress;
    let percent = match (view.state, of.units_total) {
        (State::Completed, _) => 100,
        (_, 0) => 0,
        // A run that is not over never shows 100.
        (_, total) => (u64::from(of.units_done) * 100 / u64::from(total)).min(99),
    };
    json!({
        "percent": percent,
        "nodesDone": of.nodes_done,
        "nodesTotal": of.nodes_total,
        "words": of.words,
        "currentNode": of.current_node,
    })
}

/// The error of a failed execution: a problem with what a resume would save. What only operators may read stays away.
fn error(view: &ExecutionView) -> Option<Value> {
    let failure = view.failure.as_ref()?;
    let code = ProblemCode::from_code(failure.code.as_str()).unwrap_or(ProblemCode::Internal);
    let mut value = serde_json::to_value(Problem::new(code).detail(failure.detail.clone())).ok()?;
    let fields = value.as_object_mut()?;
    fields.insert("code".to_owned(), json!(failure.code.as_str()));
    fields.insert("resumable".to_owned(), json!(restart::resumable(view.state).is_ok()));
    fields.insert("failedNode".to_owned(), json!(failure.failed_node));
    fields.insert("completedUnits".to_owned(), json!(view.completed_units));
    fields.insert("tokensSaved".to_owned(), json!(view.tokens_saved));
    Some(value)
}

/// One file, with a signed link when it is there.
pub(crate) fn deliverable(gateway: &Gateway, view: &ExecutionView, file: &DeliverableRow) -> Value {
    let ready = file.object_key.is_some();
    let url = ready.then(|| deliverables::link(gateway, view.execution_id, &file.name));
    let mut value = json!({
        "format": file.format,
        "name": file.name,
        "status": if ready { "ready" } else { "failed" },
        "mediaType": file.media_type,
        "bytes": file.bytes,
        "url": url,
    });
    if let (Some(error), Some(fields)) = (&file.error, value.as_object_mut()) {
        fields.insert("error".to_owned(), json!(error));
    }
    value
}

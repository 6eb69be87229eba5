//! What operators see of executions and executors.

use chrono::{DateTime, SecondsFormat, Utc};
use protocol::{
    operate::ExecutorView,
    read::{ExecutionView, StopReceipt},
    submission::QueueBlock,
};
use serde_json::{Map, Value, json};

/// RFC 3339 in UTC with milliseconds.
fn timestamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// An execution of any tenant: as its owner sees it, with the owner and with what only operators may read of an error.
pub(crate) fn execution(view: &ExecutionView) -> Value {
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    put("executionId", json!(view.execution_id));
    put("userId", json!(view.user_id));
    put("status", json!(view.state.as_str()));
    if view.waiting_reason.is_some() {
        put("waiting", json!({ "reason": view.waiting_reason, "until": view.wake_at.map(timestamp) }));
    }
    put("engineId", json!(view.engine_id));
    put("engineName", json!(view.engine_name));
    put("userEngineId", json!(view.user_engine_id));
    put("engineVersionId", json!(view.version_id));
    put("attempt", json!(view.attempt));
    put("priority", json!(view.priority));
    put("progress", json!(view.progress));
    let total = view.input_tokens.saturating_add(view.output_tokens);
    put("usage", json!({ "input": view.input_tokens, "output": view.output_tokens, "total": total }));
    put("queue", view.queue.as_ref().map(queue).unwrap_or_default());
    put("stop", view.stop.as_ref().map(stop).unwrap_or_default());
    put("result", json!(view.result));
    put("error", json!(view.failure));
    put("completedUnits", json!(view.completed_units));
    put("deliverables", json!(view.deliverables));
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

fn queue(block: &QueueBlock) -> Value {
    json!({
        "position": block.position,
        "ahead": block.ahead,
        "etaMs": block.eta_ms,
        "waitingReason": block.waiting_reason,
        "asOf": timestamp(block.as_of),
    })
}

fn stop(receipt: &StopReceipt) -> Value {
    json!({
        "requestedAt": timestamp(receipt.requested_at),
        "executorAckAt": receipt.executor_ack_at.map(timestamp),
        "upstreamClosedAt": receipt.upstream_closed_at.map(timestamp),
        "closedBy": receipt.closed_by,
        "finishedAt": receipt.finished_at.map(timestamp),
        "tokensAtStop": receipt.tokens_at_stop,
    })
}

/// One boot of an executor.
pub(crate) fn executor(view: &ExecutorView) -> Value {
    json!({
        "executorId": view.executor_id,
        "name": view.name,
        "version": view.version,
        "slots": view.slots,
        "running": view.running,
        "draining": view.draining,
        "startedAt": timestamp(view.started_at),
        "seenAt": timestamp(view.seen_at),
    })
}

//! One attempt at one execution: from its grant to its stored finish.
//!
//! `shared` is what its parts share, `graph` walks the flow, `node` does a node's work, `unit` gets one answer with
//! retries, `call` is one model call, `patience` decides between waiting and parking, `tally` counts, `output` makes files.

mod call;
mod graph;
mod node;
mod output;
mod patience;
mod shared;
mod tally;
mod unit;

use std::{collections::HashMap, sync::Arc, time::Duration};

use domain::{EventBody, Failure, FailureCode, UnitKey, WaitingReason, flow::CompiledFlow};
use protocol::{
    claim::Grant,
    read::{ReadUnits, UNITS_PATH, Units},
    report::Finish,
};
use serde_json::value::RawValue;
use tokio::{sync::OwnedSemaphorePermit, time::sleep};
use tracing::Instrument as _;

use crate::{
    halt::{Halt, Reason},
    outbox::{Line, Phase},
    service::Executor,
};
use graph::End;
use shared::Attempt;

/// How long one read of finished units may take.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// A read that failed is repeated after this long.
const REPEAT_AFTER: Duration = Duration::from_millis(200);

/// Holds an execution until its finish is stored, or it is somebody else's.
pub(crate) async fn hold(
    executor: Arc<Executor>,
    grant: Grant,
    line: Arc<Line>,
    halt: Arc<Halt>,
    slot: OwnedSemaphorePermit,
) {
    let span = tracing::info_span!(
        "execution",
        execution.id = %grant.execution_id, engine.id = %grant.engine_id, user.id = %grant.user_id, epoch = grant.epoch
    );
    if let Some(traceparent) = &grant.traceparent {
        let context = service::TraceContext { traceparent: traceparent.clone(), tracestate: None };
        // One submission, one execution: its trace goes on to the provider.
        service::trace::set_parent(&span, &context);
    }
    let id = grant.execution_id;
    executor.metrics.runs.inc();
    executor.metrics.attempts.inc();
    let finish = Box::pin(report(&executor, grant, &line, &halt)).instrument(span).await;
    executor.metrics.finishes.with_label_values(&[finish]).inc();
    executor.metrics.runs.dec();
    executor.runs.forget(id);
    drop(slot);
}

/// Runs it and reports its finish; returns how it ended, for the metrics.
async fn report(executor: &Arc<Executor>, grant: Grant, line: &Arc<Line>, halt: &Arc<Halt>) -> &'static str {
    line.event(EventBody::Started);
    let before = grant.input_tokens.saturating_add(grant.output_tokens);
    let (finish, name, progress) = match begin(executor, grant, line, halt).await {
        Ok(attempt) => {
            let end = attempt.run().await;
            let progress = attempt.tally.progress();
            let (finish, name) = finish(&attempt, end);
            (finish, name, Some(progress))
        }
        Err(Begun::Halted) => {
            let (finish, name) = halted(halt, before, None);
            (finish, name, None)
        }
        Err(Begun::Failed(failure)) => (Some(Finish::Failed { failure }), "failed", None),
    };
    let Some(finish) = finish else { return name };
    line.finish(finish, progress);
    let ended = tokio::select! {
        ended = line.ended() => ended,
        // The process ends and nobody takes the finish: the lease runs out, and another executor continues.
        () = executor.reports_end.cancelled() => Phase::Lost,
    };
    if ended == Phase::Lost { "lost" } else { name }
}

/// Why an attempt does not begin.
enum Begun {
    Halted,
    Failed(Failure),
}

async fn begin(executor: &Arc<Executor>, grant: Grant, line: &Arc<Line>, halt: &Arc<Halt>) -> Result<Attempt, Begun> {
    let ready = async {
        let flow = flow(executor, &grant).await?;
        let outputs = finished_units(executor, &grant).await?;
        Attempt::new(Arc::clone(executor), grant, flow, outputs, Arc::clone(line), Arc::clone(halt))
    };
    tokio::select! {
        biased;
        () = halt.ordered() => Err(Begun::Halted),
        ready = ready => ready.map_err(Begun::Failed),
    }
}

async fn flow(executor: &Executor, grant: &Grant) -> Result<Arc<CompiledFlow>, Failure> {
    loop {
        match executor.versions.get(&executor.claims, grant.version_id).await {
            Ok(Ok(flow)) => return Ok(flow),
            Ok(Err(unusable)) => {
                let detail = "this executor cannot run the engine's version";
                let failure = Failure::new(FailureCode::EngineMisconfigured, detail);
                return Err(Failure { admin_detail: Some(bounded(unusable.to_string())), ..failure });
            }
            Err(error) => tracing::warn!(error = %service::chain(&error), "a version cannot be fetched yet"),
        }
        sleep(REPEAT_AFTER).await;
    }
}

/// The outputs of units that earlier attempts finished or that were inherited.
async fn finished_units(executor: &Executor, grant: &Grant) -> Result<HashMap<UnitKey, Box<RawValue>>, Failure> {
    if grant.finished.is_empty() {
        return Ok(HashMap::new());
    }
    let request = ReadUnits { execution_id: grant.execution_id };
    loop {
        let read: Result<Units, _> = executor.claims.post_json(UNITS_PATH, &request, READ_WITHIN).await;
        match read {
            Ok(units) => {
                let outputs: HashMap<UnitKey, Box<RawValue>> =
                    units.units.into_iter().map(|unit| (unit.key, unit.output)).collect();
                // Only what the grant calls finished: partial text is no output.
                return Ok(grant.finished.iter().filter_map(|key| outputs.get_key_value(key)).map(owned).collect());
            }
            Err(error) => tracing::warn!(error = %service::chain(&error), "finished units cannot be fetched yet"),
        }
        sleep(REPEAT_AFTER).await;
    }
}

#[expect(clippy::borrowed_box, reason = "what iterating over the map gives")]
fn owned((key, output): (&UnitKey, &Box<RawValue>)) -> (UnitKey, Box<RawValue>) {
    (key.clone(), output.clone())
}

fn finish(attempt: &Attempt, end: End) -> (Option<Finish>, &'static str) {
    let tokens = attempt.tally.tokens();
    let halted = || halted(&attempt.halt, tokens, attempt.tally.last_closed());
    match end {
        End::Completed { result, deliverables } => (Some(Finish::Completed { result, deliverables }), "completed"),
        End::Halted => halted(),
        // A failure is no reason to give it back: it would fail again. Everything else bows to the order to end.
        End::Failed(_) if !matches!(attempt.halt.reason(), None | Some(Reason::GiveBack)) => halted(),
        End::Parked(_) | End::GivenBack if attempt.halt.is_ordered() => halted(),
        End::Failed(failure) => (Some(Finish::Failed { failure }), "failed"),
        End::Parked(until) => (Some(Finish::Parked { reason: WaitingReason::Provider, until }), "parked"),
        End::GivenBack => (Some(Finish::GivenBack), "given_back"),
    }
}

/// The finish of an attempt that was told to end. Every provider connection of it is closed by now.
fn halted(
    halt: &Halt,
    tokens: i64,
    last_closed: Option<chrono::DateTime<chrono::Utc>>,
) -> (Option<Finish>, &'static str) {
    match halt.reason() {
        Some(Reason::Stopped(at)) => {
            // With nothing open at the stop, the connections were closed as soon as it was heard.
            let closed = last_closed.map_or(at, |closed| closed.max(at));
            (Some(Finish::Cancelled { acknowledged_at: at, upstream_closed_at: closed, tokens }), "cancelled")
        }
        Some(Reason::Deadline) => {
            let failure =
                Failure::new(FailureCode::DeadlineExceeded, "the execution did not finish before its deadline");
            (Some(Finish::Failed { failure }), "failed")
        }
        Some(Reason::GiveBack) => (Some(Finish::GivenBack), "given_back"),
        Some(Reason::Lost) | None => (None, "lost"),
    }
}

/// What an operator may read of a failure, at most 2 KB.
pub(crate) fn bounded(mut detail: String) -> String {
    detail.truncate(detail.floor_char_boundary(2_048));
    detail
}

//! The report stream: one ordered request at a time. What gathers while one runs is the next; when idle, it goes at once.

use std::{sync::Arc, time::Duration};

use protocol::report::{REPORTS_PATH, Report, ReportRequest, ReportResponse, Standing};
use service::{InternalError, ProblemCode};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::Instrument as _;

use crate::{
    outbox::{Sent, TICK},
    service::Executor,
};

/// How long one request may take. A longer one is repeated: it is idempotent.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The first wait after a failure; it doubles up to [`RETRY_AT_MOST`].
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// The longest wait after a failure.
const RETRY_AT_MOST: Duration = Duration::from_millis(500);
/// A request that the leader calls wrong so often is split, to find the report that is. Only an explicit code calls it wrong: a fault
/// of the leader's passes, or is mended, and the runs go on.
const SPLIT_AFTER: u32 = 3;

/// Sends reports until the process ends: after the last run, or soon after `abort`.
pub(crate) async fn run(executor: Arc<Executor>) {
    loop {
        tokio::select! {
            biased;
            () = executor.outbox.news() => {}
            () = executor.reports_end.cancelled() => return,
        }
        let (sent, reports) = executor.outbox.take();
        if !sent.is_empty() {
            let span = tracing::info_span!("report", executions = reports.len());
            deliver(&executor, sent, reports).instrument(span).await;
        }
    }
}

/// The one timer of all streams.
pub(crate) async fn tick(executor: Arc<Executor>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => executor.outbox.tick(),
            () = executor.reports_end.cancelled() => return,
        }
    }
}

/// Sends reports until their verdicts are known, the very same ones each time.
async fn deliver(executor: &Arc<Executor>, sent: Vec<Sent>, reports: Vec<Report>) {
    executor.metrics.report_size.observe(reports.len() as f64);
    let mut open = vec![(sent, ReportRequest { executor_id: executor.id, reports })];
    while let Some((sent, request)) = open.pop() {
        match send(executor, &request).await {
            Sending::Answered(answer) => settle(executor, sent, request.reports, &answer),
            Sending::Wrong => open.extend(split(sent, request.reports, executor)),
            Sending::Ended => return,
        }
    }
    executor.metrics.outbox_bytes.set(i64::try_from(executor.outbox.bytes()).unwrap_or(i64::MAX));
    executor.outbox.settled();
}

enum Sending {
    Answered(ReportResponse),
    /// The leader calls the request wrong, again and again.
    Wrong,
    /// The process ends.
    Ended,
}

async fn send(executor: &Executor, request: &ReportRequest) -> Sending {
    let (mut wait, mut wrong, mut failures) = (RETRY_FIRST, 0, 0_u32);
    loop {
        let began = Instant::now();
        let answer = tokio::select! {
            answer = executor.reports.post_json(REPORTS_PATH, request, ANSWER_WITHIN) => answer,
            () = executor.reports_end.cancelled() => return Sending::Ended,
        };
        match answer {
            Ok(answer) => {
                executor.metrics.report_seconds.observe(began.elapsed().as_secs_f64());
                if failures > 0 {
                    tracing::info!(failures, "the leader takes reports again");
                }
                return Sending::Answered(answer);
            }
            Err(error) => {
                executor.metrics.reports_failed.inc();
                failures += 1;
                if failures == 1 {
                    tracing::warn!(error = %service::chain(&error), "a report has no answer; it is repeated until it has one");
                }
                wrong = if is_wrong(&error) { wrong + 1 } else { 0 };
                if wrong >= SPLIT_AFTER {
                    return Sending::Wrong;
                }
            }
        }
        tokio::select! {
            () = sleep(wait) => {}
            () = executor.reports_end.cancelled() => return Sending::Ended,
        }
        wait = (wait * 2).min(RETRY_AT_MOST);
    }
}

/// Whether the answer blames the request and not the times.
fn is_wrong(error: &InternalError) -> bool {
    match error {
        InternalError::Status { problem, .. } => {
            matches!(
                problem.code,
                ProblemCode::InvalidRequest | ProblemCode::InvalidInput | ProblemCode::PayloadTooLarge
            )
        }
        InternalError::Request(_) => true,
        InternalError::Decode { .. } | InternalError::Unreachable { .. } | InternalError::Timeout { .. } => false,
    }
}

/// Halves a request that is wrong. One report that is wrong alone ends its run: otherwise it would hold up all others.
fn split(mut sent: Vec<Sent>, mut reports: Vec<Report>, executor: &Executor) -> Vec<(Vec<Sent>, ReportRequest)> {
    let executor_id = executor.id;
    if sent.len() <= 1 {
        for Sent { line, .. } in sent {
            tracing::error!(execution.id = %line.execution_id(), "the leader refuses a report; its run is dropped");
            executor.runs.lose(protocol::claim::Held { execution_id: line.execution_id(), epoch: line.epoch() });
        }
        return Vec::new();
    }
    let half = sent.len() / 2;
    let (late_sent, late) = (sent.split_off(half), reports.split_off(half));
    vec![(late_sent, ReportRequest { executor_id, reports: late }), (sent, ReportRequest { executor_id, reports })]
}

fn settle(executor: &Executor, sent: Vec<Sent>, reports: Vec<Report>, answer: &ReportResponse) {
    if answer.verdicts.len() != sent.len() {
        tracing::error!(sent = sent.len(), answered = answer.verdicts.len(), "the leader's verdicts do not fit");
    }
    let now = executor.clock.now();
    for ((Sent { line, bytes }, report), verdict) in sent.into_iter().zip(reports).zip(&answer.verdicts) {
        let id = line.execution_id();
        line.settle(report, bytes, verdict);
        match verdict.standing {
            Standing::Cancelling => executor.runs.stop(id, line.epoch(), now),
            Standing::Lost => {
                executor.runs.lose(protocol::claim::Held { execution_id: id, epoch: line.epoch() });
            }
            Standing::Held | Standing::Over | Standing::Gap => {}
        }
        line.watch(answer.watched.contains(&id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::Problem;

    #[test]
    fn only_an_explicit_code_calls_a_report_wrong() {
        let answered = |code: ProblemCode| {
            let problem = Box::new(Problem::new(code));
            is_wrong(&InternalError::Status { url: String::new(), status: problem.status, problem })
        };

        assert!(answered(ProblemCode::InvalidRequest) && answered(ProblemCode::PayloadTooLarge));
        for passing in [ProblemCode::Internal, ProblemCode::Unavailable, ProblemCode::NotLeader, ProblemCode::Conflict]
        {
            assert!(!answered(passing), "{passing:?}");
        }
    }
}

//! Many executions streaming at once on one executor: does it fall behind, and what does each take?

use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use domain::{ExecutionId, State};
use futures::future::join_all;
use hdrhistogram::Histogram;
use http::Method;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    arguments::Plan,
    database::Database,
    load::{self, Bounds, Target},
    processes::{Snapshot, Spent},
    report::{Goal, Line, Report},
    scenarios::latency,
    stack::Stack,
};

/// What the simulator sends per second and execution.
pub(crate) const TOKENS_PER_SECOND: u32 = 20;
/// From the end of the busiest time to the end of the last execution, attempts that were repeated included.
const FINISH: Duration = Duration::from_secs(60);
const SAMPLE: Duration = Duration::from_millis(250);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    execution_id: ExecutionId,
}

/// Starts `plan.streams` executions, watches some of them, and waits for the end of all.
///
/// # Errors
/// When a connection breaks, a process has ended, or the executions do not finish.
pub(crate) async fn run(
    stack: &Stack,
    database: &Database,
    target: &Target,
    plan: &Plan,
    report: &mut Report,
) -> anyhow::Result<()> {
    let before = Snapshot::take(&stack.facts.processes)?;
    let viewers = watch(target, plan.viewers).await?;
    let rest = plan.streams.saturating_sub(u64::try_from(plan.viewers)?);
    let load = load::submit(target, plan.clients, &Bounds::count(rest, Duration::from_secs(20))).await?;
    let peak = observe(stack, database).await?;
    latency::wait_until_finished(database, FINISH).await?;

    let failed = database.in_state(State::Failed).await?;
    let live = collect(viewers).await?;
    let expected = f64::from(plan.tokens) / f64::from(TOKENS_PER_SECOND);
    let late = lateness(database, expected).await?;
    anyhow::ensure!(failed == 0, "{failed} of {} streaming executions failed", plan.streams);

    let streams = peak.running as f64;
    report.add(
        Line::new("streams", "streaming at once on one executor", streams, "")
            .goal(Goal::AtLeast(plan.streams as f64))
            .maybe_note(load.refusals()),
    );
    lag_lines(&late, &live, expected, report);
    let seconds = peak.spent.wall.as_secs_f64();
    report.add(
        Line::new("stream_cpu", "streaming: cores of the executor", peak.spent.of("executor") / 1_000.0 / seconds, "")
            .note(format!("cores by role: {}", peak.spent.per(seconds * 1_000.0))),
    );
    let grown = (peak.executor_mib - before.largest_mib("executor")) * 1_024.0;
    report.add(Line::new("stream_memory", "streaming: executor memory per execution", grown / streams, "KiB").note(
        format!("resident: {:.1} MiB idle, {:.1} MiB at the peak", before.largest_mib("executor"), peak.executor_mib),
    ));
    Ok(())
}

fn lag_lines(late: &Histogram<u64>, live: &Histogram<u64>, expected: f64, report: &mut Report) {
    let ms = |times: &Histogram<u64>, quantile: f64| times.value_at_quantile(quantile) as f64 / 1_000.0;
    report.add(
        Line::new("stream_late_p99", "streaming: provider call longer than its text, p99", ms(late, 0.99), "ms")
            .goal(Goal::AtMost(500.0))
            .note(format!(
                "the simulator writes for {expected:.1} s; beyond that p50 {:.0} ms, the longest {:.0} ms; its own \
                 delay on the same cores is in it",
                ms(late, 0.5),
                ms(late, 1.0)
            )),
    );
    report.add(
        Line::new("stream_live_p50", "streaming: event -> viewer, p50", ms(live, 0.5), "ms")
            .note(format!("p99 {:.0} ms; from the event's own time to its arrival over SSE", ms(live, 0.99))),
    );
}

/// The busiest instant, and what was spent while everything streamed.
struct Peak {
    running: u64,
    executor_mib: f64,
    spent: Spent,
}

/// Looks until the number of running executions falls below half of the most that was seen.
async fn observe(stack: &Stack, database: &Database) -> anyhow::Result<Peak> {
    let first = Snapshot::take(&stack.facts.processes)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut peak = Peak { running: 0, executor_mib: 0.0, spent: first.since(&first) };
    while Instant::now() < deadline {
        sleep(SAMPLE).await;
        let running = database.processing().await?;
        if running < peak.running / 2 {
            return Ok(peak);
        }
        let now = Snapshot::take(&stack.facts.processes)?;
        peak.running = peak.running.max(running);
        peak.executor_mib = peak.executor_mib.max(now.largest_mib("executor"));
        peak.spent = now.since(&first);
    }
    anyhow::bail!("the streaming executions did not end within a minute")
}

/// How much longer each provider call took than the simulator needs for its text.
async fn lateness(database: &Database, expected: f64) -> anyhow::Result<Histogram<u64>> {
    let mut late = load::histogram()?;
    for call in database.calls().await?.values().flatten() {
        let beyond = (call.ended - call.started) as f64 - expected * 1_000_000.0;
        late.saturating_record(beyond.max(1.0) as u64);
    }
    anyhow::ensure!(!late.is_empty(), "the usage ledger has no provider call");
    Ok(late)
}

type Viewers = JoinSet<anyhow::Result<Histogram<u64>>>;

/// Submits `count` executions and follows each of them over its own connection.
async fn watch(target: &Target, count: usize) -> anyhow::Result<Viewers> {
    let submissions = join_all((0..count).map(|number| async move {
        let mut connection = target.connect(number)?;
        let answer = connection.call(Method::POST, &target.path, target.body.clone()).await?;
        Ok::<_, anyhow::Error>(answer.json::<Accepted>("submitting")?.execution_id)
    }))
    .await;

    let mut viewers = JoinSet::new();
    for (number, id) in submissions.into_iter().enumerate() {
        let connection = target.connect(number)?;
        let path = format!("/v1/executions/{}/events", id?);
        viewers.spawn(async move { follow(connection.events(&path).await?).await });
    }
    Ok(viewers)
}

async fn collect(mut viewers: Viewers) -> anyhow::Result<Histogram<u64>> {
    let mut all = load::histogram()?;
    while let Some(part) = viewers.join_next().await {
        all.add(part.context("a viewer")??)?;
    }
    Ok(all)
}

/// Reads one stream to its end and notes how old each delta is at its arrival.
async fn follow(mut body: hyper::body::Incoming) -> anyhow::Result<Histogram<u64>> {
    let mut ages = load::histogram()?;
    let mut text = String::new();
    while let Some(frame) = body.frame().await {
        let Some(bytes) = frame?.into_data().ok() else { continue };
        text.push_str(&String::from_utf8_lossy(&bytes));
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            if let Some(age) = age(&event, DateTime::from(std::time::SystemTime::now())) {
                ages.saturating_record(age);
            }
        }
    }
    Ok(ages)
}

/// The age of an `output.delta` in microseconds.
fn age(event: &str, now: DateTime<Utc>) -> Option<u64> {
    #[derive(Deserialize)]
    struct At {
        at: DateTime<Utc>,
    }
    event.lines().find(|line| line.strip_prefix("event:").is_some_and(|name| name.trim() == "output.delta"))?;
    let data = event.lines().find_map(|line| line.strip_prefix("data:"))?;
    let At { at } = serde_json::from_str(data.trim()).ok()?;
    u64::try_from((now - at).num_microseconds()?).ok().map(|age| age.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_deltas_have_an_age() {
        let now = "2026-11-21T10:00:00.250Z".parse().unwrap();
        let event = |name: &str| format!("id: 7\nevent: {name}\ndata: {{\"at\":\"2026-11-21T10:00:00.200Z\"}}\n\n");

        assert_eq!(age(&event("output.delta"), now), Some(50_000));
        assert_eq!(age(&event("node.started"), now), None);
        assert_eq!(age(": heartbeat\n\n", now), None);
    }
}

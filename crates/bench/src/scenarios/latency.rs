//! How quickly an idle platform starts, and what it adds between two steps.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use domain::ExecutionId;
use hdrhistogram::Histogram;
use http::Method;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::{
    database::Database,
    load::{self, Target},
    report::{Goal, Line, Report},
};

/// Between two submissions. Long enough for one execution to finish; spread, so that it does not beat in time with
/// timers of the platform.
const GAP: std::ops::Range<u64> = 45..75;
/// Short executions that are still unfinished after this long never finish.
pub(crate) const FINISH: Duration = Duration::from_secs(20);

/// The part of the 202 that is needed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    execution_id: ExecutionId,
}

/// Submits `samples` executions one after the other and reads from the usage ledger when their provider calls began.
///
/// # Errors
/// When a submission is refused or an execution does not finish.
pub(crate) async fn run(
    target: &Target,
    database: &Database,
    samples: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut connection = target.connect(0)?;
    let mut sent = HashMap::new();
    let mut answered = load::histogram()?;
    for _ in 0..samples {
        let at = unix_micros()?;
        let begin = Instant::now();
        let answer = connection.call(Method::POST, &target.path, target.body.clone()).await?;
        answered.record(load::micros(begin.elapsed()))?;
        sent.insert(answer.json::<Accepted>("submitting")?.execution_id, at);
        sleep(Duration::from_millis(rand::random_range(GAP))).await;
    }
    wait_until_finished(database, FINISH).await?;

    let figures = Figures::read(&sent, database).await?;
    lines(&answered, &figures, report);
    Ok(())
}

/// Times in microseconds.
struct Figures {
    first_call: Histogram<u64>,
    between: Histogram<u64>,
    done: Histogram<u64>,
}

impl Figures {
    async fn read(sent: &HashMap<ExecutionId, i64>, database: &Database) -> anyhow::Result<Self> {
        let calls = database.calls().await?;
        let ends = database.ends().await?;
        let mut figures =
            Self { first_call: load::histogram()?, between: load::histogram()?, done: load::histogram()? };
        for (id, at) in sent {
            let calls = calls.get(id).with_context(|| format!("{id} has no row in the usage ledger"))?;
            let first = calls.first().with_context(|| format!("{id} made no provider call"))?;
            figures.first_call.record(passed(*at, first.started))?;
            for pair in calls.windows(2) {
                if let [before, after] = pair {
                    figures.between.record(passed(before.ended, after.started))?;
                }
            }
            let end = ends.get(id).with_context(|| format!("{id} has not finished"))?;
            figures.done.record(passed(*at, *end))?;
        }
        Ok(figures)
    }
}

fn lines(answered: &Histogram<u64>, figures: &Figures, report: &mut Report) {
    let ms = |times: &Histogram<u64>, quantile: f64| times.value_at_quantile(quantile) as f64 / 1_000.0;
    report.add(Line::new("idle_answer_p50", "idle: POST -> 202, p50", ms(answered, 0.5), "ms").against("commit_ms"));
    report.add(
        Line::new("idle_call_p50", "idle: POST -> first provider call, p50", ms(&figures.first_call, 0.5), "ms")
            .goal(Goal::AtMost(4.0))
            .against("commit_ms"),
    );
    report.add(
        Line::new("idle_call_p99", "idle: POST -> first provider call, p99", ms(&figures.first_call, 0.99), "ms")
            .goal(Goal::AtMost(12.0))
            .against("commit_ms"),
    );
    report.add(
        Line::new("step_p50", "idle: added between two steps, p50", ms(&figures.between, 0.5), "ms")
            .goal(Goal::AtMost(1.5))
            .against("commit_ms"),
    );
    report.add(
        Line::new("idle_done_p50", "idle: POST -> 3 steps completed, p50", ms(&figures.done, 0.5), "ms")
            .against("commit_ms"),
    );
}

/// Waits until nothing is unfinished.
///
/// # Errors
/// When that takes longer than `within`.
pub(crate) async fn wait_until_finished(database: &Database, within: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + within;
    loop {
        let unfinished = database.unfinished().await?;
        if unfinished == 0 {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "{unfinished} executions did not finish within {} s",
            within.as_secs()
        );
        sleep(Duration::from_millis(20)).await;
    }
}

fn unix_micros() -> anyhow::Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?)
}

/// Both instants are of this machine's one clock, so nothing can be negative but by a correction of it.
fn passed(from: i64, to: i64) -> u64 {
    u64::try_from(to - from).unwrap_or(1).max(1)
}

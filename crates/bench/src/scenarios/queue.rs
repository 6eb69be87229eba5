//! The same operations with a short and a long queue: nothing may grow with the backlog.

use std::time::Duration;

use domain::ExecutionId;
use hdrhistogram::Histogram;
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::{
    arguments::Plan,
    database::Database,
    http::Connection,
    load::{self, Bounds, Target},
    report::{Goal, Line, Report, number},
    stack::Stack,
    sustained::{self, Rhythm, Sustained},
};

/// What one queue length costs.
#[derive(Debug)]
pub(crate) struct Costs {
    queued: u64,
    submit: Histogram<u64>,
    position: Histogram<u64>,
    stop: Histogram<u64>,
    release: Sustained,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    execution_id: ExecutionId,
}

impl Costs {
    /// Pauses the executors, fills the queue to `wanted`, measures single operations, lets the executors go on and
    /// measures release.
    ///
    /// # Errors
    /// When an operation fails or a process has ended.
    pub(crate) async fn measure(
        stack: &Stack,
        database: &Database,
        target: &Target,
        plan: &Plan,
        wanted: u64,
    ) -> anyhow::Result<Self> {
        stack.pause_executors()?;
        // Until then the leader goes on releasing to them, and a released execution has no rank.
        leases_have_lapsed(database).await?;
        let missing = wanted.saturating_sub(database.unfinished().await?);
        if missing > 0 {
            load::submit(target, plan.clients, &Bounds::count(missing, plan.fill)).await?;
        }
        let queued = database.unfinished().await?;
        let [submit, position, stop] = cycles(target, plan.cycles).await?;

        stack.resume_executors()?;
        let running = wait_for_slots(database, |slots| slots > 0).await?;
        let rhythm = Rhythm {
            clients: plan.clients,
            // What runs is not queued: with this many unfinished the queue keeps its length.
            unfinished: if queued > running { queued } else { wanted + running },
            warm_up: plan.warm_up,
            duration: plan.release,
        };
        let release = sustained::run(stack, database, target, rhythm).await?;
        Ok(Self { queued, submit, position, stop, release })
    }

    /// Only status knows the queue: what another process spends on an execution would hide what its length costs.
    fn release_ms(&self) -> f64 {
        self.release.spent.of("status") / self.release.finished()
    }

    fn p50(times: &Histogram<u64>) -> f64 {
        times.value_at_quantile(0.5) as f64 / 1_000.0
    }
}

/// The costs of the long queue as multiples of those of the short one.
pub(crate) fn compare(few: &Costs, many: &Costs, report: &mut Report) {
    let operations = [
        ("queue_submit", "submit", Costs::p50(&few.submit), Costs::p50(&many.submit), "ms, p50"),
        ("queue_position", "position", Costs::p50(&few.position), Costs::p50(&many.position), "ms, p50"),
        ("queue_stop", "stop", Costs::p50(&few.stop), Costs::p50(&many.stop), "ms, p50"),
        ("queue_release", "release", few.release_ms(), many.release_ms(), "CPU ms of status per execution"),
    ];
    for (key, name, short, long, unit) in operations {
        let name = format!("{name}: {} against {} queued", number(many.queued as f64), number(few.queued as f64));
        report.add(
            Line::new(key, name, long / short, "x")
                .goal(Goal::AtMost(1.5))
                .note(format!("{short:.3} against {long:.3} {unit}")),
        );
    }
    let (short, long) = (few.release.cpu_ms(), many.release.cpu_ms());
    report.add(
        Line::new("queue_cpu", "CPU per execution: long queue / short queue", long / short, "x")
            .note(format!("{short:.3} against {long:.3} ms, all processes of the platform")),
    );
    let rate = few.release.rate / many.release.rate;
    report.add(Line::new("queue_rate", "completed per second: short queue / long queue", rate, "x").note(format!(
        "{:.0} against {:.0} per second, submissions at the same rate",
        few.release.rate, many.release.rate
    )));
}

/// Submit, ask for the position, stop; so the queue keeps its length.
async fn cycles(target: &Target, count: usize) -> anyhow::Result<[Histogram<u64>; 3]> {
    let mut times = [load::histogram()?, load::histogram()?, load::histogram()?];
    let mut connection = target.connect(0)?;
    for _ in 0..count {
        let [submit, position, stop] = &mut times;
        let id = submit_one(&mut connection, target, submit).await?;

        let path = format!("/v1/executions/{id}/queue");
        timed(&mut connection, Method::GET, &path, position).await?;
        timed(&mut connection, Method::POST, &format!("/v1/executions/{id}/stop"), stop).await?;
    }
    Ok(times)
}

async fn submit_one(
    connection: &mut Connection,
    target: &Target,
    times: &mut Histogram<u64>,
) -> anyhow::Result<ExecutionId> {
    let begin = Instant::now();
    let answer = connection.call(Method::POST, &target.path, target.body.clone()).await?;
    times.record(load::micros(begin.elapsed()))?;
    Ok(answer.json::<Accepted>("submitting")?.execution_id)
}

async fn timed(
    connection: &mut Connection,
    method: Method,
    path: &str,
    times: &mut Histogram<u64>,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    let answer = connection.call(method, path, bytes::Bytes::new()).await?;
    times.record(load::micros(begin.elapsed()))?;
    let body = String::from_utf8_lossy(&answer.body);
    // A queued execution is stopped at once: a 202 would mean that somebody had started it.
    anyhow::ensure!(answer.status == StatusCode::OK, "{path} answers {}: {body}", answer.status);
    Ok(())
}

/// Waits until no executor holds a lease.
///
/// # Errors
/// When one goes on renewing.
pub(crate) async fn leases_have_lapsed(database: &Database) -> anyhow::Result<()> {
    wait_for_slots(database, |slots| slots == 0).await.map(drop)
}

/// Waits until the slots of all executors that hold a lease are as `wanted`. A lease lives for 5 s and is renewed each
/// second.
async fn wait_for_slots(database: &Database, wanted: fn(u64) -> bool) -> anyhow::Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let slots = database.slots().await?;
        if wanted(slots) {
            return Ok(slots);
        }
        anyhow::ensure!(Instant::now() < deadline, "the executors still have {slots} slots by their leases");
        sleep(Duration::from_millis(100)).await;
    }
}

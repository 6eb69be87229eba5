//! Executions completed per second, and what each costs.

use crate::{
    arguments::Plan,
    database::Database,
    load::Target,
    report::{Goal, Line, Report},
    stack::Stack,
    sustained::{self, Rhythm},
};

/// Submitted and not finished, throughout: enough that no slot is ever empty, little enough that the queue is short.
const UNFINISHED: u64 = 1_000;

/// Measures for `plan.completed`.
///
/// # Errors
/// When a connection breaks or a process has ended.
pub(crate) async fn run(
    stack: &Stack,
    database: &Database,
    target: &Target,
    plan: &Plan,
    report: &mut Report,
) -> anyhow::Result<()> {
    let rhythm =
        Rhythm { clients: plan.clients, unfinished: UNFINISHED, warm_up: plan.warm_up, duration: plan.completed };
    let reached = sustained::run(stack, database, target, rhythm).await?;

    let seconds = plan.completed.as_secs();
    report.add(
        Line::new("completed", format!("completed per second, over {seconds} s"), reached.rate, "/s")
            .goal(Goal::AtLeast(1_500.0))
            .against("commits_32")
            .maybe_note(reached.load.refusals()),
    );
    report.add(
        Line::new("cpu_per_execution", "CPU per execution", reached.cpu_ms(), "ms").goal(Goal::AtMost(1.0)).note(
            format!(
                "all our processes, Postgres and RabbitMQ; by role: {}. The simulator and the load generator take \
                 their time from the same cores and are not counted",
                reached.spent.per(reached.finished())
            ),
        ),
    );
    report.add(Line::new("failed", "failed executions", reached.failed as f64, "").goal(Goal::AtMost(0.0)));
    Ok(())
}

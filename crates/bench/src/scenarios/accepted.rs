//! Submissions accepted per second. Executors are paused, so nothing else happens.

use crate::{
    arguments::Plan,
    load::{self, Bounds, Target},
    processes::Snapshot,
    report::{Goal, Line, Report},
    stack::Stack,
};

/// Measures for `plan.accepted`; what was submitted stays queued.
///
/// # Errors
/// When a connection breaks or a process has ended.
pub(crate) async fn run(stack: &Stack, target: &Target, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    load::submit(target, plan.clients, &Bounds::time(plan.warm_up)).await?;
    let before = Snapshot::take(&stack.facts.processes)?;
    let load = load::submit(target, plan.clients, &Bounds::time(plan.accepted)).await?;
    let spent = Snapshot::take(&stack.facts.processes)?.since(&before);

    let accepted = load.accepted as f64;
    report.add(
        Line::new("accepted", format!("accepted per second, {} clients", plan.clients), load.rate(), "/s")
            .goal(Goal::AtLeast(5_000.0))
            .against("commits_32")
            .maybe_note(load.refusals()),
    );
    report.add(Line::new("accepted_p50", "accepted: POST -> 202, p50", load.ms(0.5), "ms").against("commit_ms"));
    report.add(
        Line::new("accepted_p99", "accepted: POST -> 202, p99", load.ms(0.99), "ms")
            .goal(Goal::AtMost(25.0))
            .against("commit_ms"),
    );
    report.add(
        Line::new("cpu_per_submission", "CPU per submission", spent.platform() / accepted, "ms")
            .note(format!("by role: {}", spent.per(accepted))),
    );
    Ok(())
}

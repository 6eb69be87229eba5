//! Resident memory of the services before any work.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    processes::Snapshot,
    report::{Goal, Line, Report},
    stack::Stack,
};

/// Start-up work (pools, first renewals) is over by then.
const SETTLE: Duration = Duration::from_secs(2);

/// Measures one gateway, one status and one executor; of each role the largest process.
///
/// # Errors
/// When a process has ended.
pub(crate) async fn run(stack: &Stack, report: &mut Report) -> anyhow::Result<()> {
    sleep(SETTLE).await;
    let snapshot = Snapshot::take(&stack.facts.processes)?;
    let [gateway, status, executor] = ["gateway", "status", "executor"].map(|role| snapshot.largest_mib(role));
    report.add(
        Line::new("memory_idle", "resident, idle: gateway + status + executor", gateway + status + executor, "MiB")
            .goal(Goal::AtMost(80.0))
            .note(format!(
                "gateway {gateway:.1}, status {status:.1}, executor {executor:.1} MiB; the largest process of each role"
            )),
    );
    Ok(())
}

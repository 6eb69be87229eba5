//! Submissions and executions at the same time, at the rate at which executions finish.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use domain::State;
use tokio::{
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{
    database::Database,
    load::{self, Bounds, Load, Target},
    processes::{Snapshot, Spent},
    stack::Stack,
};

/// How often the clients get as many permits as executions have finished. Short, so that a short queue does not run
/// empty between two ticks; long, so that counting costs next to nothing.
const TICK: Duration = Duration::from_millis(25);

/// What is kept up, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rhythm {
    /// Load-generating clients.
    pub(crate) clients: usize,
    /// Executions that are submitted and not finished.
    pub(crate) unfinished: u64,
    /// Not counted.
    pub(crate) warm_up: Duration,
    /// Counted.
    pub(crate) duration: Duration,
}

/// What was reached.
#[derive(Debug)]
pub(crate) struct Sustained {
    /// Finished while it was counted.
    pub(crate) finished: u64,
    /// Of all executions of this platform, those that failed.
    pub(crate) failed: u64,
    /// CPU and time while it was counted.
    pub(crate) spent: Spent,
    /// What the clients saw, warm-up included.
    pub(crate) load: Load,
}

impl Sustained {
    /// Executions finished per second.
    pub(crate) fn rate(&self) -> f64 {
        self.finished as f64 / self.spent.wall.as_secs_f64()
    }

    /// CPU milliseconds of the platform per finished execution.
    pub(crate) fn cpu_ms(&self) -> f64 {
        self.spent.platform() / self.finished as f64
    }
}

/// Keeps `rhythm.unfinished` executions submitted and not finished, and counts how many finish.
///
/// # Errors
/// When a connection breaks, a process has ended, or nothing finishes at all.
pub(crate) async fn run(
    stack: &Stack,
    database: &Database,
    target: &Target,
    rhythm: Rhythm,
) -> anyhow::Result<Sustained> {
    let backlog = database.unfinished().await?;
    let free = usize::try_from(rhythm.unfinished.saturating_sub(backlog))?;
    let bounds =
        Bounds { gate: Some(Arc::new(Semaphore::new(free))), ..Bounds::time(rhythm.warm_up + rhythm.duration) };

    let clients = load::submit(target, rhythm.clients, &bounds);
    let permits = refill(database, &bounds, backlog);
    let (load, (), (finished, spent)) = tokio::try_join!(clients, permits, count(stack, database, rhythm))?;

    anyhow::ensure!(finished > 0, "no execution finished within {} s", rhythm.duration.as_secs());
    Ok(Sustained { finished, failed: database.in_state(State::Failed).await?, spent, load })
}

/// Gives the clients one permit for each execution that finished since the start.
async fn refill(database: &Database, bounds: &Bounds, backlog: u64) -> anyhow::Result<()> {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut given = 0;
    while Instant::now() < bounds.until {
        ticks.tick().await;
        // Read before the count: what is submitted in between then looks unfinished, never finished.
        let accepted = bounds.accepted.load(Ordering::Relaxed);
        let finished = (backlog + accepted).saturating_sub(database.unfinished().await?);
        if let Some(gate) = &bounds.gate {
            gate.add_permits(usize::try_from(finished.saturating_sub(given))?);
        }
        given = given.max(finished);
    }
    Ok(())
}

async fn count(stack: &Stack, database: &Database, rhythm: Rhythm) -> anyhow::Result<(u64, Spent)> {
    sleep(rhythm.warm_up).await;
    let finished_before = database.finished().await?;
    let before = Snapshot::take(&stack.facts.processes)?;

    sleep(rhythm.duration).await;
    let finished_after = database.finished().await?;
    let after = Snapshot::take(&stack.facts.processes)?;
    Ok((finished_after.saturating_sub(finished_before), after.since(&before)))
}

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

/// How often the clients get permits. Short, so that a short queue does not run empty between two ticks.
const TICK: Duration = Duration::from_millis(25);
/// Counting reads every unfinished execution. With more than this many it would cost Postgres what is to be measured, so
/// it happens once in [`SPARSE`] ticks, and the permits are spread over them.
const CHEAP: u64 = 2_000;
const SPARSE: u64 = 40;

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
    /// Executions finished per second.
    pub(crate) rate: f64,
    /// Of all executions of this platform, those that failed.
    pub(crate) failed: u64,
    /// CPU and time while it was counted.
    pub(crate) spent: Spent,
    /// What the clients saw, warm-up included.
    pub(crate) load: Load,
}

impl Sustained {
    /// How many finished while CPU time was counted.
    pub(crate) fn finished(&self) -> f64 {
        self.rate * self.spent.wall.as_secs_f64()
    }

    /// CPU milliseconds of the platform per finished execution.
    pub(crate) fn cpu_ms(&self) -> f64 {
        self.spent.platform() / self.finished()
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
    let (load, (), (rate, spent)) = tokio::try_join!(clients, permits, count(stack, database, rhythm))?;

    anyhow::ensure!(rate > 0.0, "no execution finished within {} s", rhythm.duration.as_secs());
    Ok(Sustained { rate, failed: database.in_state(State::Failed).await?, spent, load })
}

/// Gives the clients one permit for each execution that finished since the start.
async fn refill(database: &Database, bounds: &Bounds, backlog: u64) -> anyhow::Result<()> {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut given, mut due, mut counted_at) = (0, 0, 0);
    let every = if backlog > CHEAP { SPARSE } else { 1 };
    for tick in 0_u64.. {
        ticks.tick().await;
        if Instant::now() >= bounds.until {
            break;
        }
        if tick.is_multiple_of(every) {
            // Read before the count: what is submitted in between then looks unfinished, never finished.
            let accepted = bounds.accepted.load(Ordering::Relaxed);
            let finished = (backlog + accepted).saturating_sub(database.unfinished().await?);
            due = finished.saturating_sub(given);
            counted_at = tick;
        }
        let ticks_left = every - (tick - counted_at);
        let now = due / ticks_left;
        if let Some(gate) = &bounds.gate {
            gate.add_permits(usize::try_from(now)?);
        }
        due -= now;
        given += now;
    }
    Ok(())
}

/// Executions finished per second, and what was spent. Counting finished executions reads them all, so it happens just
/// outside of the time whose CPU is measured.
async fn count(stack: &Stack, database: &Database, rhythm: Rhythm) -> anyhow::Result<(f64, Spent)> {
    sleep(rhythm.warm_up).await;
    let finished_before = database.finished().await?;
    let begin = Instant::now();
    let before = Snapshot::take(&stack.facts.processes)?;

    sleep(rhythm.duration).await;
    let spent = Snapshot::take(&stack.facts.processes)?.since(&before);
    let finished_after = database.finished().await?;
    let finished = finished_after.saturating_sub(finished_before) as f64;
    Ok((finished / begin.elapsed().as_secs_f64(), spent))
}

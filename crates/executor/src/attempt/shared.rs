//! What all parts of one attempt share.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use domain::{
    Failure, FailureCode, UnitKey,
    flow::{CompiledFlow, RunContext},
};
use parking_lot::Mutex;
use protocol::claim::Grant;
use serde_json::value::RawValue;

use super::{graph::End, patience::Patience, tally::Tally};
use crate::{
    halt::{Halt, Reason},
    outbox::{Gone, Line},
    service::Executor,
};

/// How many model calls one attempt may make for different units.
const MAX_UNITS: u32 = 10_000;

/// How long an execution waits for providers without finishing a unit, all attempts and parkings together.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Why a unit or a node has no output.
#[derive(Debug)]
pub(super) enum Broken {
    /// The attempt was told to end, or is fenced.
    Halted,
    /// The provider wants more patience than a slot should have.
    Parked(Duration),
    /// The process drains: another executor continues here.
    Boundary,
    /// It cannot be done.
    Failed(Failure),
}

impl From<Gone> for Broken {
    fn from(Gone: Gone) -> Self {
        Self::Halted
    }
}

/// One attempt.
pub(super) struct Attempt {
    pub(super) executor: Arc<Executor>,
    pub(super) grant: Grant,
    pub(super) flow: Arc<CompiledFlow>,
    pub(super) context: RunContext,
    pub(super) line: Arc<Line>,
    pub(super) halt: Arc<Halt>,
    pub(super) tally: Tally,
    pub(super) patience: Patience,
    /// Outputs of finished units.
    pub(super) inherited: HashMap<UnitKey, Box<RawValue>>,
    /// Units with text in the log that is not theirs any more.
    open: Mutex<HashSet<UnitKey>>,
    failing: AtomicBool,
    units_begun: AtomicU32,
    /// When the last unit was finished, by whichever attempt.
    progress_at: Mutex<DateTime<Utc>>,
}

impl Attempt {
    /// # Errors
    /// When the stored input is no JSON.
    pub(super) fn new(
        executor: Arc<Executor>,
        grant: Grant,
        flow: Arc<CompiledFlow>,
        inherited: HashMap<UnitKey, Box<RawValue>>,
        line: Arc<Line>,
        halt: Arc<Halt>,
    ) -> Result<Self, Failure> {
        let input: serde_json::Value = serde_json::from_str(grant.input.get())
            .map_err(|error| internal("the execution's input cannot be read", &error.to_string()))?;
        let context = flow.context(&input);
        let tally = Tally::new(&flow, &grant);
        let progress_at = Mutex::new(grant.progress_at.unwrap_or_else(|| executor.clock.now()));
        let open = Mutex::new(grant.open.iter().cloned().collect());
        Ok(Self {
            executor,
            grant,
            flow,
            context,
            line,
            halt,
            tally,
            patience: Patience::default(),
            inherited,
            open,
            failing: AtomicBool::new(false),
            units_begun: AtomicU32::new(0),
            progress_at,
        })
    }

    /// Walks the graph, watching the deadline.
    pub(super) async fn run(&self) -> End {
        let Some(deadline) = self.grant.deadline_at else { return self.walk().await };
        let left = (deadline - self.executor.clock.now()).to_std().unwrap_or_default();
        let mut walk = Box::pin(self.walk());
        tokio::select! {
            end = &mut walk => return end,
            () = tokio::time::sleep(left) => self.halt.order(Reason::Deadline),
        }
        // The open calls end now, and are counted.
        walk.await
    }

    /// The text of the unit in the log belongs to an earlier attempt: true once.
    pub(super) fn begins_anew(&self, key: &UnitKey) -> bool {
        !self.grant.open.is_empty() && self.open.lock().remove(key)
    }

    /// A unit is finished: patience with providers begins anew.
    pub(super) fn progressed(&self) {
        *self.progress_at.lock() = self.executor.clock.now();
    }

    /// Whether the execution may wait so long for a provider: at most [`PATIENCE`] since its last finished unit.
    pub(super) fn has_patience(&self, wait: Duration) -> bool {
        let waited = (self.executor.clock.now() - *self.progress_at.lock()).to_std().unwrap_or_default();
        waited.saturating_add(wait) <= PATIENCE
    }

    /// From now on no new unit starts; those that run may end.
    pub(super) fn fail(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Whether another unit may begin.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn may_begin(&self) -> Result<(), Broken> {
        if self.halt.is_ordered() || self.is_failing() {
            return Err(Broken::Halted);
        }
        if let Some(wait) = self.patience.parked() {
            return Err(Broken::Parked(wait));
        }
        if self.executor.boundary.is_cancelled() {
            return Err(Broken::Boundary);
        }
        if self.units_begun.fetch_add(1, Ordering::Relaxed) >= MAX_UNITS {
            let failure = Failure::new(FailureCode::EngineMisconfigured, "the execution has more than 10,000 units");
            return Err(Broken::Failed(failure));
        }
        Ok(())
    }

    /// Returns when a model call may start: the lease is valid and what was reported is not piling up.
    ///
    /// # Errors
    /// [`Broken::Halted`].
    pub(super) async fn may_call(&self) -> Result<(), Broken> {
        tokio::select! {
            biased;
            () = self.halt.ordered() => Err(Broken::Halted),
            () = async {
                self.line.room().await;
                self.executor.lease.valid().await;
            } => Ok(()),
        }
    }

    /// Returns when the first `place` units are acknowledged.
    ///
    /// # Errors
    /// [`Broken::Halted`].
    pub(super) async fn acknowledged(&self, place: u64) -> Result<(), Broken> {
        tokio::select! {
            biased;
            () = self.halt.ordered() => Err(Broken::Halted),
            acknowledged = self.line.acknowledged(place) => Ok(acknowledged?),
        }
    }
}

/// A fault of ours, with what an operator may read.
pub(super) fn internal(detail: &str, admin_detail: &str) -> Failure {
    let failure = Failure::new(FailureCode::Internal, detail);
    Failure { admin_detail: Some(super::bounded(admin_detail.to_owned())), ..failure }
}

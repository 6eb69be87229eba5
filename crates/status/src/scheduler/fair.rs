//! Start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queueing", 1996): each owner's work is laid end to end on
//! a virtual time line, stretched by the inverse of the owner's share.

use std::collections::HashMap;

use domain::{EngineId, UserId};

/// What an engine's run is expected to take before one was seen, in slot-milliseconds.
const UNKNOWN_COST: f64 = 10_000.0;
/// How much of an engine's estimate one run moves: close to a running median, and cheap.
const STEP: f64 = 0.1;

/// Where the owners' lines would end if a batch were taken in: a batch that is taken in twice, or not at all, moves nothing.
#[derive(Debug, Default)]
pub struct Drafts(HashMap<UserId, f64>);

/// The virtual time line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fair {
    now: f64,
    finish: HashMap<UserId, f64>,
    cost: HashMap<EngineId, f64>,
}

impl Fair {
    /// The virtual start time of an owner's next execution, which comes after those of `drafts`.
    pub(crate) fn tag(&self, drafts: &mut Drafts, user: UserId, engine: EngineId, share: f64) -> f64 {
        let known = || self.finish.get(&user).copied().unwrap_or(self.now);
        let start = drafts.0.get(&user).copied().unwrap_or_else(known).max(self.now);
        drafts.0.insert(user, start + self.cost(engine) / share.max(f64::MIN_POSITIVE));
        start
    }

    /// Charges a tag of the ledger to its owner's line. Charging it twice is charging it once.
    pub(crate) fn restore(&mut self, user: UserId, engine: EngineId, share: f64, tag: f64) {
        let end = tag + self.cost(engine) / share.max(f64::MIN_POSITIVE);
        let finish = self.finish.entry(user).or_insert(end);
        *finish = finish.max(end);
    }

    /// An execution of this tag is released: virtual time is at least that.
    pub(crate) fn released(&mut self, tag: f64) {
        self.now = self.now.max(tag);
    }

    /// Charges the difference between what a run took and what it was expected to take to the owner's next tag.
    pub(crate) fn ran(&mut self, user: UserId, engine: EngineId, share: f64, slot_ms: f64) {
        let expected = self.cost(engine);
        if let Some(finish) = self.finish.get_mut(&user) {
            *finish = (*finish + (slot_ms - expected) / share.max(f64::MIN_POSITIVE)).max(self.now);
        }
        // A step towards the observation, as wide as the estimate allows: outliers do not move it more than others.
        let next = expected + STEP * (slot_ms - expected).clamp(-expected, expected.max(1.0));
        self.cost.insert(engine, next.max(1.0));
    }

    /// Forgets an owner who has nothing queued and whose line lies in the past: as if they were new.
    pub(crate) fn forget(&mut self, user: UserId) {
        if self.finish.get(&user).is_some_and(|finish| *finish <= self.now) {
            self.finish.remove(&user);
        }
    }

    /// What a run of an engine is expected to take, in slot-milliseconds.
    pub(crate) fn cost(&self, engine: EngineId) -> f64 {
        self.cost.get(&engine).copied().unwrap_or(UNKNOWN_COST)
    }

    /// What a run of any engine is expected to take.
    pub(crate) fn mean_cost(&self) -> f64 {
        let count = u32::try_from(self.cost.len()).unwrap_or(u32::MAX);
        if count == 0 { UNKNOWN_COST } else { self.cost.values().sum::<f64>() / f64::from(count) }
    }
}

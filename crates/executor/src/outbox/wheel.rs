//! One timer for all lines: thousands of streams cost one wake-up per tick, not one per stream.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::Line;

/// The step of the timer.
pub(crate) const TICK: Duration = Duration::from_millis(25);
/// Longer waits are cut to this many ticks.
const SLOTS: u64 = 64;

/// Lines by the tick at which they are due. A line knows its first time; being due once too often is harmless.
pub(super) struct Wheel {
    state: Mutex<State>,
}

struct State {
    /// From 1, so that 0 can mean "not scheduled".
    now: u64,
    slots: Vec<Vec<Weak<Line>>>,
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State { now: 1, slots: (0..SLOTS).map(|_| Vec::new()).collect() }) }
    }

    /// Makes a line due after `after`, unless it is due earlier already.
    pub(super) fn schedule(&self, line: &Arc<Line>, after: Duration) {
        let ticks = u64::try_from(after.as_millis().div_ceil(TICK.as_millis())).unwrap_or(SLOTS).clamp(1, SLOTS - 1);
        let mut state = self.state.lock();
        let at = state.now + ticks;
        let known = line.due_at.load(Ordering::Relaxed);
        if known != 0 && known <= at {
            return;
        }
        line.due_at.store(at, Ordering::Relaxed);
        if let Some(slot) = slot(&mut state.slots, at) {
            slot.push(Arc::downgrade(line));
        }
    }

    /// One tick later: the lines that are due now.
    pub(super) fn advance(&self) -> Vec<Arc<Line>> {
        let mut state = self.state.lock();
        state.now += 1;
        let now = state.now;
        let lines = slot(&mut state.slots, now).map(std::mem::take).unwrap_or_default();
        let mut due = Vec::with_capacity(lines.len());
        for line in lines.iter().filter_map(Weak::upgrade) {
            // Another number: it was due earlier, and is scheduled anew if it has something.
            if line.due_at.compare_exchange(now, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                due.push(line);
            }
        }
        due
    }
}

fn slot(slots: &mut [Vec<Weak<Line>>], tick: u64) -> Option<&mut Vec<Weak<Line>>> {
    slots.get_mut(usize::try_from(tick % SLOTS).unwrap_or_default())
}

//! Long waits: as long as anything else of the run is active it waits in place; when all that is left waits, the run is
//! parked and its slot is free for others.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// Who works and who waits in one attempt.
#[derive(Default)]
pub(super) struct Patience {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    active: u32,
    waiting: u32,
    parked_until: Option<Instant>,
}

/// One active unit, until it is dropped.
pub(super) struct Active<'a>(&'a Patience);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.state.lock().active -= 1;
        self.0.changed.notify_waiters();
    }
}

/// One unit that waits, until it is dropped.
struct Waiting<'a>(&'a Patience);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

impl Patience {
    /// A unit begins.
    pub(super) fn active(&self) -> Active<'_> {
        self.state.lock().active += 1;
        Active(self)
    }

    /// How long the run is parked, once it is.
    pub(super) fn parked(&self) -> Option<Duration> {
        let until = self.state.lock().parked_until?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Waits for `wait`, or returns at once with the time left when nothing else is active.
    ///
    /// # Errors
    /// How long the run is to be parked.
    pub(super) async fn wait(&self, wait: Duration) -> Result<(), Duration> {
        let until = Instant::now() + wait;
        self.state.lock().waiting += 1;
        let _waiting = Waiting(self);
        self.changed.notify_waiters();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(left) = self.park(until) {
                self.changed.notify_waiters();
                return Err(left);
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(until) => return Ok(()),
            }
        }
    }

    fn park(&self, until: Instant) -> Option<Duration> {
        let mut state = self.state.lock();
        if state.parked_until.is_none() && state.waiting >= state.active {
            state.parked_until = Some(until);
        }
        let until = state.parked_until?;
        Some(until.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn alone_it_parks_at_once() {
        let patience = Patience::default();
        let _unit = patience.active();

        let left = patience.wait(LONG).await.unwrap_err();

        assert!(left <= LONG && left > LONG / 2);
        assert!(patience.parked().is_some());
    }

    #[tokio::test]
    async fn while_another_unit_works_it_waits_in_place() {
        let patience = Patience::default();
        let (_waiting, other) = (patience.active(), patience.active());
        let mut wait = Box::pin(patience.wait(LONG));
        assert!(wait.as_mut().now_or_never().is_none());

        drop(other);

        assert!(wait.await.is_err());
    }

    #[tokio::test]
    async fn a_wait_that_ends_while_others_work_goes_on() {
        let patience = Patience::default();
        let (_waiting, _other) = (patience.active(), patience.active());

        assert_eq!(patience.wait(Duration::from_millis(5)).await, Ok(()));
        assert!(patience.parked().is_none());
    }

    #[tokio::test]
    async fn two_that_wait_park_together() {
        let patience = Patience::default();
        let (_one, _two) = (patience.active(), patience.active());

        let (first, second) = tokio::join!(patience.wait(LONG), patience.wait(2 * LONG));

        assert!(first.is_err() && second.is_err());
    }
}

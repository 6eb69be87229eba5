//! The lease as this process can prove it: by its monotonic clock, from the moment the last successful renewal was sent.

use std::time::Duration;

use protocol::claim::LEASE_MS;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// Until when everything this executor holds is certainly its own.
#[derive(Debug)]
pub(crate) struct Lease {
    until: watch::Sender<Option<Instant>>,
}

impl Lease {
    /// No lease yet.
    pub(crate) fn new() -> Self {
        Self { until: watch::Sender::new(None) }
    }

    /// A renewal that was sent at `sent` succeeded. Sent, not answered: the database's lease began somewhere in between.
    pub(crate) fn renewed(&self, sent: Instant) {
        self.until.send_modify(|until| *until = (*until).max(Some(sent + Duration::from_millis(LEASE_MS))));
    }

    /// Whether a model call may start now.
    pub(crate) fn is_valid(&self) -> bool {
        self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Returns as soon as the lease is valid: at once, or after the next successful renewal.
    pub(crate) async fn valid(&self) {
        let mut until = self.until.subscribe();
        while !self.is_valid() {
            // The sender lives in `self`: the channel cannot close.
            let _ = until.changed().await;
        }
    }

    /// Returns when the lease has run out.
    pub(crate) async fn over(&self) {
        let mut until = self.until.subscribe();
        loop {
            let Some(end) = *until.borrow_and_update() else { return };
            if Instant::now() >= end {
                return;
            }
            let _ = timeout_at(end, until.changed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn ago(milliseconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_millis(milliseconds)).unwrap()
    }

    #[tokio::test]
    async fn a_lease_counts_from_the_moment_its_renewal_was_sent() {
        let lease = Lease::new();
        assert!(lease.valid().now_or_never().is_none());

        lease.renewed(ago(LEASE_MS + 1));
        assert!(!lease.is_valid());
        assert!(lease.over().now_or_never().is_some());

        lease.renewed(ago(LEASE_MS - 1_000));
        assert!(lease.is_valid());
        assert!(lease.over().now_or_never().is_none());
    }

    #[tokio::test]
    async fn an_older_renewal_answered_late_shortens_nothing() {
        let lease = Lease::new();
        lease.renewed(ago(0));

        lease.renewed(ago(LEASE_MS));

        assert!(lease.is_valid());
    }

    #[tokio::test]
    async fn who_waits_goes_on_with_the_next_renewal_and_hears_of_the_end() {
        let lease = Lease::new();
        let mut waiting = Box::pin(lease.valid());
        assert!(waiting.as_mut().now_or_never().is_none());

        lease.renewed(ago(LEASE_MS - 20));

        waiting.await;
        lease.over().await;
        assert!(!lease.is_valid());
    }
}

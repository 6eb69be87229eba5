//! What ends an attempt before its graph is done.

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Why an attempt has to end now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its owner asked for it; with the instant this executor heard of it.
    Stopped(DateTime<Utc>),
    /// `deadlineMs` passed.
    Deadline,
    /// This process ends: another executor continues.
    GiveBack,
    /// Somebody else holds it, or it is over: nothing may be said about it any more.
    Lost,
}

/// The order to end one attempt. The first reason counts; only a lost lease outweighs it.
#[derive(Debug, Default)]
pub(crate) struct Halt {
    token: CancellationToken,
    reason: Mutex<Option<Reason>>,
}

impl Halt {
    /// Gives the order. Every open model call of the attempt is dropped before it does anything else.
    pub(crate) fn order(&self, reason: Reason) {
        {
            let mut current = self.reason.lock();
            if current.is_none() || reason == Reason::Lost {
                *current = Some(reason);
            }
        }
        self.token.cancel();
    }

    /// The order, if it was given.
    pub(crate) fn reason(&self) -> Option<Reason> {
        *self.reason.lock()
    }

    pub(crate) fn is_ordered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns when the order is given.
    pub(crate) fn ordered(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_counts_and_a_lost_lease_outweighs_it() {
        let halt = Halt::default();

        halt.order(Reason::Deadline);
        halt.order(Reason::GiveBack);
        assert_eq!(halt.reason(), Some(Reason::Deadline));

        halt.order(Reason::Lost);
        assert_eq!(halt.reason(), Some(Reason::Lost));
        assert!(halt.is_ordered());
    }
}

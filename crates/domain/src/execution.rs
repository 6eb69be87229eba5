//! The one state machine of an execution. SQL enforces it by compare-and-set and never invents a state.

use serde::{Deserialize, Serialize};

/// Where an execution is. `i16` is the stored form and never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i16)]
pub enum State {
    /// Accepted, not (or no longer) held by an executor.
    Queued = 0,
    /// Held by an executor.
    Processing = 1,
    /// Parked without a slot; a wake-up, a decision or a stop ends it.
    Waiting = 2,
    /// Asked to stop while an executor holds it.
    Cancelling = 3,
    /// Finished with its result.
    Completed = 4,
    /// Finished with an error.
    Failed = 5,
    /// Stopped.
    Cancelled = 6,
    /// A deadline passed before it ever started.
    Expired = 7,
}

/// Why an execution waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i16)]
pub enum WaitingReason {
    /// A person has to decide.
    Approval = 0,
    /// A provider asked us to come back later.
    Provider = 1,
    /// The time before the next attempt.
    Retry = 2,
    /// It was asked to start later.
    Scheduled = 3,
}

/// What can happen to an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// An executor takes it.
    Claim,
    /// The owner asks to stop.
    Stop,
    /// The owner or an operator fences it at once.
    ForceStop,
    /// `queueTtlMs` or `deadlineMs` passed before it ever started.
    Expire,
    /// Intake refused it.
    Reject,
    /// The executor puts it aside and frees its slot.
    Park,
    /// Its wake-up time came, or it was decided.
    Wake,
    /// The executor finished it.
    Complete,
    /// The executor could not finish it.
    Fail,
    /// Its executor's lease ran out.
    LoseLease,
    /// Its lease ran out too often without progress in between: quarantined.
    Quarantine,
    /// Its executor gives it back (drain).
    GiveBack,
    /// `deadlineMs` passed after it had started.
    PassDeadline,
    /// The executor has closed everything after a stop.
    ConfirmStop,
}

/// A change that the present state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{change:?} is not possible for an execution that is {state:?}")]
pub struct IllegalTransition {
    /// The state it was in.
    pub state: State,
    /// What was to happen.
    pub change: Change,
}

impl State {
    /// Every state, in stored order.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Processing,
        Self::Waiting,
        Self::Cancelling,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// The state after `change`.
    ///
    /// # Errors
    /// [`IllegalTransition`] when this state does not allow the change; a terminal state allows none.
    pub const fn after(self, change: Change) -> Result<Self, IllegalTransition> {
        use Change as C;
        use State as S;
        Ok(match (self, change) {
            (S::Queued, C::Claim) => S::Processing,
            (S::Queued | S::Waiting, C::Stop | C::ForceStop) => S::Cancelled,
            (S::Queued, C::Expire) => S::Expired,
            // A row that was given back or lost its lease has started already: its deadline is a failure.
            (S::Queued | S::Processing | S::Waiting, C::PassDeadline) => S::Failed,
            (S::Queued, C::Reject) => S::Failed,

            (S::Processing, C::Park) => S::Waiting,
            (S::Processing, C::Complete) => S::Completed,
            (S::Processing | S::Waiting, C::Fail) => S::Failed,
            (S::Processing, C::Stop) => S::Cancelling,
            (S::Processing | S::Cancelling, C::ForceStop) => S::Cancelled,
            (S::Processing, C::LoseLease | C::GiveBack) => S::Queued,
            (S::Processing, C::Quarantine) => S::Failed,

            (S::Waiting, C::Wake) => S::Queued,

            // Stopping twice is one stop.
            (S::Cancelling, C::Stop) => S::Cancelling,
            // Its last unit was reported before the stop reached it.
            (S::Cancelling, C::Complete) => S::Completed,
            // Who asked to stop is not told of a failure, and never gets another attempt.
            (
                S::Cancelling,
                C::ConfirmStop | C::Fail | C::Park | C::GiveBack | C::LoseLease | C::Quarantine | C::PassDeadline,
            ) => S::Cancelled,
            _ => return Err(IllegalTransition { state: self, change }),
        })
    }

    /// Whether nothing can happen any more.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// Whether an executor holds it.
    #[must_use]
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Processing | Self::Cancelling)
    }

    /// The public word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Processing => "processing",
            Self::Waiting => "waiting",
            Self::Cancelling => "cancelling",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// The stored number.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The state of a stored number.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    /// The states from which `change` is possible: what a compare-and-set compares with.
    pub fn allowing(change: Change) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |state| state.after(change).is_ok())
    }
}

impl WaitingReason {
    /// The stored number.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The reason of a stored number.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        [Self::Approval, Self::Provider, Self::Retry, Self::Scheduled].into_iter().find(|reason| reason.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHANGES: [Change; 14] = [
        Change::Claim,
        Change::Stop,
        Change::ForceStop,
        Change::Expire,
        Change::Reject,
        Change::Park,
        Change::Wake,
        Change::Complete,
        Change::Fail,
        Change::LoseLease,
        Change::Quarantine,
        Change::GiveBack,
        Change::PassDeadline,
        Change::ConfirmStop,
    ];

    proptest! {
        #[test]
        fn a_terminal_state_is_final_after_any_history(history in prop::collection::vec(prop::sample::select(&CHANGES[..]), 0..60)) {
            let mut state = State::Queued;
            let mut terminal = None;
            for change in history {
                if let Ok(next) = state.after(change) {
                    prop_assert_eq!(terminal, None, "{:?} left a terminal state", change);
                    state = next;
                    terminal = state.is_terminal().then_some(state);
                }
            }
        }

        #[test]
        fn who_asked_to_stop_never_gets_another_attempt(history in prop::collection::vec(prop::sample::select(&CHANGES[..]), 0..60)) {
            let mut state = State::Cancelling;
            for change in history {
                state = state.after(change).unwrap_or(state);
                prop_assert!(!matches!(state, State::Queued | State::Processing | State::Waiting));
            }
        }
    }

    #[test]
    fn stored_numbers_read_back() {
        for state in State::ALL {
            assert_eq!(State::from_code(state.code()), Some(state));
        }
        assert_eq!(State::from_code(99), None);
    }

    #[test]
    fn every_unfinished_state_can_be_stopped() {
        for state in State::ALL.into_iter().filter(|state| !state.is_terminal()) {
            assert!(state.after(Change::Stop).is_ok());
            assert_eq!(state.after(Change::ForceStop), Ok(State::Cancelled));
        }
    }
}

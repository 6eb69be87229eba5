//! Numbers: of events in their log, and of attempts.

use serde::{Deserialize, Serialize};

/// The number of an event: `epoch << 32 | n`, n from 1 in every epoch. 0 is before the first event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub i64);

impl Sequence {
    /// Before the first event.
    pub const START: Self = Self(0);

    /// The `n`th event of `epoch`.
    #[must_use]
    pub const fn new(epoch: i32, n: u32) -> Self {
        Self(((epoch as i64) << 32) | n as i64)
    }

    /// The epoch whose holder wrote the event.
    #[must_use]
    pub const fn epoch(self) -> i32 {
        (self.0 >> 32) as i32
    }

    /// The number of the event that `epoch`'s holder writes after this one.
    #[must_use]
    pub const fn next_in(self, epoch: i32) -> Self {
        if self.epoch() == epoch { Self(self.0 + 1) } else { Self::new(epoch, 1) }
    }
}

/// How many attempts there have been when `epoch` is the fencing number. It grows whenever the writer changes: an executor's
/// are odd, status's are even, and 0 is an execution that no executor ever held.
#[must_use]
pub const fn attempt_of(epoch: i32) -> i32 {
    epoch / 2 + epoch % 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_starts_at_one_in_every_epoch() {
        assert_eq!(Sequence::START.next_in(0), Sequence(1));
        assert_eq!(Sequence(1).next_in(0), Sequence(2));
        assert_eq!(Sequence(7).next_in(3), Sequence::new(3, 1));
        assert_eq!(Sequence::new(3, 1).epoch(), 3);
    }

    #[test]
    fn attempts_are_the_epochs_of_executors() {
        assert_eq!([0, 1, 2, 3, 4].map(attempt_of), [0, 1, 1, 2, 2]);
    }
}

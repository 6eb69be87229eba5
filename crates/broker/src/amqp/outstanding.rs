//! Which deliveries of a channel are not settled, and the fewest frames that settle a batch of them.

use crate::consumer::Settlement;
use std::collections::BTreeSet;

/// The delivery tags a channel has handed out and not yet settled.
#[derive(Debug, Default)]
pub(super) struct Outstanding {
    tags: BTreeSet<u64>,
}

/// A frame to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    Ack { tag: u64, multiple: bool },
    Requeue { tag: u64 },
}

impl Outstanding {
    pub(super) fn add(&mut self, tag: u64) {
        self.tags.insert(tag);
    }

    /// The frames for a batch. What is given back goes first; then the acknowledged tags that are the oldest of all need
    /// one frame together (`multiple` settles everything up to its tag), the others one each.
    pub(super) fn settle(&mut self, batch: impl Iterator<Item = (u64, Settlement)>) -> Vec<Frame> {
        let mut acked = BTreeSet::new();
        let mut frames = Vec::new();
        for (tag, settlement) in batch {
            match settlement {
                Settlement::Ack => {
                    acked.insert(tag);
                }
                Settlement::GiveBack => {
                    self.tags.remove(&tag);
                    frames.push(Frame::Requeue { tag });
                }
            }
        }
        let oldest: Vec<u64> = self.tags.iter().copied().take_while(|tag| acked.contains(tag)).collect();
        if let [.., last] = oldest[..] {
            frames.push(Frame::Ack { tag: last, multiple: oldest.len() > 1 });
            acked = acked.split_off(&(last + 1));
            self.tags = self.tags.split_off(&(last + 1));
        }
        for tag in acked {
            self.tags.remove(&tag);
            frames.push(Frame::Ack { tag, multiple: false });
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Settlement::{Ack, GiveBack};

    fn with(tags: impl IntoIterator<Item = u64>) -> Outstanding {
        Outstanding { tags: tags.into_iter().collect() }
    }

    #[test]
    fn the_oldest_are_acknowledged_together() {
        let mut outstanding = with(1..=5);

        let frames = outstanding.settle([(2, Ack), (1, Ack), (4, Ack)].into_iter());

        assert_eq!(frames, [Frame::Ack { tag: 2, multiple: true }, Frame::Ack { tag: 4, multiple: false }]);
        assert_eq!(outstanding.tags, [3, 5].into());
    }

    #[test]
    fn what_is_given_back_is_never_acknowledged_with_its_neighbours() {
        let mut outstanding = with(1..=3);

        let frames = outstanding.settle([(1, Ack), (2, GiveBack), (3, Ack)].into_iter());

        assert_eq!(frames, [Frame::Requeue { tag: 2 }, Frame::Ack { tag: 3, multiple: true }]);
        assert!(outstanding.tags.is_empty());
    }

    #[test]
    fn one_that_is_held_keeps_the_later_ones_apart() {
        let mut outstanding = with(1..=3);

        let frames = outstanding.settle([(2, Ack), (3, Ack)].into_iter());

        assert_eq!(frames, [Frame::Ack { tag: 2, multiple: false }, Frame::Ack { tag: 3, multiple: false }]);
    }
}

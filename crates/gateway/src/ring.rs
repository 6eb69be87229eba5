//! The last events of one execution, and the rule by which a viewer gets each later event exactly once, in order. Pure.

use std::{collections::BTreeMap, sync::Arc};

use domain::{EventRecord, Sequence};

/// Events kept per execution at most.
const EVENTS: usize = 256;
/// Bytes kept per execution at most.
const BYTES: usize = 256 << 10;

/// What a viewer does next.
#[derive(Debug, Clone)]
pub(crate) enum Next {
    /// These follow what it has, without a gap.
    Events(Vec<Arc<EventRecord>>),
    /// There are later events, but the one after what it has is missing: look it up.
    Hole,
    /// It has all that is known here.
    Nothing,
}

/// The last events, in whatever order they came.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    events: BTreeMap<Sequence, Arc<EventRecord>>,
    bytes: usize,
}

impl Ring {
    /// Adds what was heard or looked up. Duplicates change nothing.
    pub(crate) fn add(&mut self, records: impl IntoIterator<Item = EventRecord>) {
        for record in records {
            let size = record.size();
            if self.events.insert(record.sequence, Arc::new(record)).is_none() {
                self.bytes += size;
            }
        }
        while self.events.len() > EVENTS || (self.bytes > BYTES && self.events.len() > 1) {
            let Some((_, oldest)) = self.events.pop_first() else { break };
            self.bytes -= oldest.size();
        }
    }

    /// What follows `after`: an event belongs next when the one before it is not later than what the viewer has.
    pub(crate) fn after(&self, after: Sequence) -> Next {
        let mut last = after;
        let mut events = Vec::new();
        for (sequence, record) in self.events.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded)) {
            if record.prev > last {
                break;
            }
            last = *sequence;
            events.push(Arc::clone(record));
        }
        if !events.is_empty() {
            Next::Events(events)
        } else if self.events.last_key_value().is_some_and(|(last, _)| *last > after) {
            Next::Hole
        } else {
            Next::Nothing
        }
    }

    /// Whether the last event of the execution is known.
    pub(crate) fn has_ended(&self) -> bool {
        self.events.last_key_value().is_some_and(|(_, last)| last.is_terminal())
    }

    /// The latest event that is known.
    pub(crate) fn last(&self) -> Option<Sequence> {
        self.events.last_key_value().map(|(sequence, _)| *sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    fn log(length: usize) -> Vec<EventRecord> {
        let mut prev = Sequence::START;
        (0..length)
            .map(|index| {
                // Every seventh event is the first of a new epoch.
                let epoch = i32::try_from(index / 7).unwrap();
                let sequence = prev.next_in(epoch);
                let fields = Some(RawValue::from_string(format!("{{\"n\":{index}}}")).unwrap());
                let at = chrono::DateTime::UNIX_EPOCH;
                let record = EventRecord { sequence, prev, at, name: "output.delta".to_owned(), fields };
                prev = sequence;
                record
            })
            .collect()
    }

    #[derive(Debug, Clone)]
    enum Step {
        Hear(prop::sample::Index, usize),
        Look,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (any::<prop::sample::Index>(), 1..5_usize).prop_map(|(at, count)| Step::Hear(at, count)),
            Just(Step::Look),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        /// Live batches come in any order, twice or never; look-ups return what is stored. Whatever happens, the viewer has a
        /// prefix of the rest of the log, and with the last look-up all of it.
        #[test]
        fn every_later_event_comes_exactly_once_in_order(
            length in 1..400_usize,
            start in any::<prop::sample::Index>(),
            steps in steps(),
        ) {
            let log = log(length);
            let start = start.index(length + 1);
            let mut after = start.checked_sub(1).map_or(Sequence::START, |index| log[index].sequence);
            let mut ring = Ring::default();
            let mut seen = Vec::new();
            for step in steps.into_iter().chain([Step::Look]) {
                match step {
                    Step::Hear(at, count) => {
                        let at = at.index(length);
                        ring.add(log[at..length.min(at + count)].iter().cloned());
                    }
                    // A page of the log after what the viewer has, as status answers it.
                    Step::Look => {
                        for record in log.iter().filter(|record| record.sequence > after).cloned().collect::<Vec<_>>() {
                            after = record.sequence;
                            seen.push(record.sequence);
                        }
                    }
                }
                while let Next::Events(events) = ring.after(after) {
                    for event in events {
                        after = event.sequence;
                        seen.push(event.sequence);
                    }
                }
            }
            let expected: Vec<_> = log[start..].iter().map(|record| record.sequence).collect();
            prop_assert_eq!(seen, expected);
        }
    }
}

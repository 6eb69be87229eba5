//! The book against a model of the ledger: whatever is lost on the way, everything is stored once and in order.

use chrono::DateTime;
use domain::{EventBody, EventRecord, ExecutionId, Sequence, UnitKey};
use proptest::prelude::*;
use protocol::report::{Finish, Report, Standing, UnitReport, Verdict};

use super::book::{Book, Phase};

const EPOCH: i32 = 3;

#[derive(Default)]
struct Ledger {
    last: Sequence,
    events: Vec<EventRecord>,
    units: Vec<UnitReport>,
    finished: bool,
}

impl Ledger {
    /// As `storage::reports` decides.
    fn take(&mut self, report: &Report, refuse: bool) -> Verdict {
        let verdict = |stored_through, standing| Verdict {
            execution_id: report.execution_id,
            epoch: report.epoch,
            stored_through,
            standing,
        };
        if self.finished {
            let standing = if report.finish.is_some() { Standing::Over } else { Standing::Lost };
            return verdict(self.last, standing);
        }
        let fresh: Vec<_> = report.events.iter().filter(|record| record.sequence > self.last).cloned().collect();
        if refuse || fresh.first().is_some_and(|record| record.prev != self.last) {
            return verdict(self.last, Standing::Gap);
        }
        for record in fresh {
            assert_eq!(record.prev, self.last);
            self.last = record.sequence;
            self.events.push(record);
        }
        for unit in &report.units {
            if !self.units.iter().any(|known| known.key == unit.key) {
                self.units.push(unit.clone());
            }
        }
        self.finished = report.finish.is_some();
        verdict(self.last, if self.finished { Standing::Over } else { Standing::Held })
    }
}

#[derive(Debug, Clone)]
enum Step {
    Event,
    Text(u8, String),
    Unit,
    Reset(u8),
    Flush,
    /// Send with a limit; so many answers are lost before one arrives; the last is a gap or not.
    Send(usize, u8, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Event),
        (0..3_u8, "[a-zé ]{0,12}").prop_map(|(unit, text)| Step::Text(unit, text)),
        Just(Step::Unit),
        (0..3_u8).prop_map(Step::Reset),
        Just(Step::Flush),
        (1..2_000_usize, 0..3_u8, any::<bool>()).prop_map(|(limit, lost, gap)| Step::Send(limit, lost, gap)),
    ]
}

fn send(book: &mut Book, ledger: &mut Ledger, limit: usize, lost: u8, gap: bool) {
    let Some(taken) = book.take(limit) else { return };
    if gap {
        let refused = ledger.take(&taken.report, true);
        book.settle(taken, &refused);
        return send(book, ledger, limit, lost, false);
    }
    for _ in 0..lost {
        ledger.take(&taken.report, false);
    }
    let verdict = ledger.take(&taken.report, false);
    book.settle(taken, &verdict);
}

/// What a client shows that applies every event, per unit.
fn shown(events: &[EventRecord], unit: i32) -> String {
    let mut text = String::new();
    for record in events {
        match record.body().unwrap() {
            EventBody::OutputDelta { unit: of, text: more, offset, .. } if of == unit => {
                assert_eq!(text.chars().count() as u64, offset);
                text.push_str(&more);
            }
            EventBody::OutputReset { unit: of, offset, .. } if of == unit => {
                text = text.chars().take(offset as usize).collect();
            }
            _ => {}
        }
    }
    text
}

proptest! {
    #[test]
    fn whatever_is_lost_everything_is_stored_once_and_in_order(steps in prop::collection::vec(step(), 0..60)) {
        let at = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let mut book = Book::new(ExecutionId::generate(), EPOCH, Sequence::new(2, 7));
        let mut ledger = Ledger { last: Sequence::new(2, 7), ..Ledger::default() };
        let (mut serial, mut wanted) = (0, Vec::new());
        let mut texts = [String::new(), String::new(), String::new()];
        for step in steps {
            match step {
                Step::Event => book.event(EventBody::Started, at),
                Step::Text(unit, text) => {
                    book.text(&UnitKey::item("c", unit.into()), &text, at);
                    texts[usize::from(unit)].push_str(&text);
                }
                Step::Unit => {
                    serial += 1;
                    let key = UnitKey::item("done", serial);
                    let output = serde_json::value::to_raw_value(&serial).unwrap();
                    let place = book.unit(UnitReport { key: key.clone(), output, complete: true }, at);
                    prop_assert_eq!(place, serial as u64);
                    wanted.push(key);
                }
                Step::Reset(unit) => {
                    book.reset(&UnitKey::item("c", unit.into()), "retry", at);
                    texts[usize::from(unit)].clear();
                }
                Step::Flush => book.flush_texts(at),
                Step::Send(limit, lost, gap) => send(&mut book, &mut ledger, limit, lost, gap),
            }
            prop_assert!(book.acknowledged() <= ledger.units.len() as u64);
        }
        book.finish(Finish::GivenBack, at);
        for _ in 0..10_000 {
            if book.phase() != Phase::Open {
                break;
            }
            send(&mut book, &mut ledger, 500, 1, false);
        }

        prop_assert_eq!(book.phase(), Phase::Over);
        prop_assert_eq!(book.bytes(), 0);
        prop_assert_eq!(ledger.units.iter().map(|unit| unit.key.clone()).collect::<Vec<_>>(), wanted);
        for (unit, text) in texts.iter().enumerate() {
            prop_assert_eq!(&shown(&ledger.events, unit as i32), text);
        }
        let numbers: Vec<i64> = ledger.events.iter().map(|record| record.sequence.0).collect();
        let first = Sequence::new(EPOCH, 1).0;
        prop_assert_eq!(numbers.clone(), (first..first + numbers.len() as i64).collect::<Vec<_>>());
    }
}

#[test]
fn a_hole_before_all_that_is_kept_fences_the_attempt() {
    let at = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
    let mut book = Book::new(ExecutionId::generate(), EPOCH, Sequence::new(2, 7));
    book.event(EventBody::Started, at);

    let taken = book.take(1_000).unwrap();
    let verdict = Verdict {
        execution_id: taken.report.execution_id,
        epoch: EPOCH,
        stored_through: Sequence::new(2, 6),
        standing: Standing::Gap,
    };
    book.settle(taken, &verdict);

    assert_eq!(book.phase(), Phase::Lost);
    assert!(!book.has_news());
}

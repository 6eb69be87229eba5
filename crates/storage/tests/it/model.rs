//! Any sequence of operations by any executors does to the ledger what it does to a model of it in a hundred lines.

use std::collections::BTreeSet;

use domain::{EventBody, ExecutionId, ExecutorId, Sequence, State};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use protocol::report::{Report, Standing};

use crate::{
    attempt::{Attempt, call, unit},
    ledger::{Ledger, now},
};

/// `usize` picks one of the attempts that ever were, the living and the stale alike.
#[derive(Debug, Clone)]
enum Operation {
    Claim,
    Report { who: usize, events: u8, unit: Option<u8>, usage: bool, gap: bool },
    Repeat { who: usize },
    Finish { who: usize, how: How },
    TakeBack { who: usize },
    GiveBack { who: usize },
    Stop { force: bool },
    Wake,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Complete,
    Fail,
    Cancel,
    GiveBack,
    Park,
}

fn operation() -> impl Strategy<Value = Operation> {
    let who = 0..64_usize;
    let how = prop::sample::select(vec![How::Complete, How::Fail, How::Cancel, How::GiveBack, How::Park]);
    prop_oneof![
        6 => Just(Operation::Claim),
        8 => (who.clone(), 0..3_u8, prop::option::of(0..6_u8), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(who, events, unit, usage, gap)| Operation::Report { who, events, unit, usage, gap }),
        3 => who.clone().prop_map(|who| Operation::Repeat { who }),
        2 => (who.clone(), how).prop_map(|(who, how)| Operation::Finish { who, how }),
        3 => who.clone().prop_map(|who| Operation::TakeBack { who }),
        2 => who.prop_map(|who| Operation::GiveBack { who }),
        1 => prop::bool::weighted(0.3).prop_map(|force| Operation::Stop { force }),
        2 => Just(Operation::Wake),
    ]
}

/// What the ledger should hold.
#[derive(Debug)]
struct Model {
    state: State,
    epoch: i32,
    last: Sequence,
    losses: i32,
    units: BTreeSet<String>,
    tokens: i64,
    /// The end by an executor's finish: its repetition is `over`.
    finished_epoch: Option<i32>,
}

/// An attempt with what it sent last.
struct Known {
    attempt: Attempt,
    sent: Option<Report>,
}

impl Model {
    const fn holds(&self, attempt: &Attempt) -> bool {
        self.state.is_held() && self.epoch == attempt.epoch
    }

    fn ends(&mut self, state: State, bump: bool) {
        self.state = state;
        self.epoch += i32::from(bump);
        self.last = self.last.next_in(self.epoch);
    }

    const fn standing(&self) -> Standing {
        if matches!(self.state, State::Cancelling) { Standing::Cancelling } else { Standing::Held }
    }

    /// Takes a report that has no finish.
    fn report(&mut self, attempt: &Attempt, report: &Report, counted: bool) -> Standing {
        let tokens: i64 =
            report.usage.iter().map(|row| row.input_tokens.unwrap_or(0) + row.output_tokens.unwrap_or(0)).sum();
        self.tokens += if counted { 0 } else { tokens };
        if !self.holds(attempt) {
            return Standing::Lost;
        }
        let fresh: Vec<_> = report.events.iter().filter(|record| record.sequence > self.last).collect();
        if fresh.first().is_some_and(|record| record.prev != self.last) {
            return Standing::Gap;
        }
        self.last = fresh.last().map_or(self.last, |record| record.sequence);
        for unit in &report.units {
            if self.units.insert(unit.key.node.clone()) {
                self.losses = 0;
            }
        }
        self.standing()
    }

    fn finish(&mut self, attempt: &Attempt, how: How) -> Standing {
        if !self.holds(attempt) {
            let over = self.finished_epoch == Some(attempt.epoch);
            return if over { Standing::Over } else { Standing::Lost };
        }
        let cancelling = self.state == State::Cancelling;
        let (state, bump) = match how {
            How::Complete => (State::Completed, false),
            _ if cancelling => (State::Cancelled, false),
            How::Fail => (State::Failed, false),
            How::Cancel | How::GiveBack => (State::Queued, true),
            How::Park => (State::Waiting, true),
        };
        self.finished_epoch = (!bump).then_some(attempt.epoch);
        self.ends(state, bump);
        Standing::Over
    }

    fn fence(&mut self, attempt: &Attempt, loss: bool) {
        if !self.holds(attempt) {
            return;
        }
        self.losses += i32::from(loss);
        let state = match self.state {
            State::Cancelling => State::Cancelled,
            _ if self.losses > 8 => State::Failed,
            _ => State::Queued,
        };
        self.ends(state, true);
    }

    fn stop(&mut self, force: bool) {
        match self.state {
            state if state.is_terminal() => {}
            State::Processing if !force => self.state = State::Cancelling,
            State::Cancelling if !force => {}
            // Who waits is written by status already.
            State::Queued | State::Waiting => self.ends(State::Cancelled, false),
            _ => self.ends(State::Cancelled, true),
        }
    }
}

struct Run<'a> {
    ledger: &'a Ledger,
    execution: ExecutionId,
    executors: [ExecutorId; 2],
    model: Model,
    known: Vec<Known>,
}

impl Run<'_> {
    async fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Claim => self.claim().await,
            Operation::Report { who, events, unit, usage, gap } => self.report(who, events, unit, usage, gap).await,
            Operation::Repeat { who } => self.repeat(who).await,
            Operation::Finish { who, how } => self.finish(who, how).await,
            Operation::TakeBack { who } | Operation::GiveBack { who } => {
                let loss = matches!(operation, Operation::TakeBack { .. });
                self.fence(who, loss).await;
            }
            Operation::Stop { force } => {
                self.model.stop(force);
                assert_eq!(self.ledger.stop(self.execution, force).await.state, self.model.state);
            }
            Operation::Wake => self.wake().await,
        }
        let view = self.ledger.view(self.execution).await;
        assert_eq!((view.state, view.attempt), (self.model.state, domain::attempt_of(self.model.epoch)));
        assert_eq!(view.last_sequence, self.model.last);
        assert_eq!(view.input_tokens + view.output_tokens, self.model.tokens);
    }

    async fn claim(&mut self) {
        // Late enough for whatever waits after a loss.
        let later = now() + chrono::Duration::minutes(5);
        // Two who take turns: one that is fenced often holds the very same execution again.
        let executor = self.executors[self.known.len() % 2];
        let claim = protocol::claim::Claim { execution_id: self.execution, claim_id: domain::ClaimId::generate() };
        let mut conn = self.ledger.conn().await;
        let granted = storage::claims::claim(&mut conn, self.ledger.term, executor, &[claim], later).await.unwrap();
        let granted = granted.into_iter().next().unwrap();
        assert_eq!(granted.is_some(), self.model.state == State::Queued);
        if let Some(grant) = granted {
            self.model.state = State::Processing;
            self.model.epoch += 1;
            let finished: BTreeSet<String> = grant.finished.iter().map(|key| key.node.clone()).collect();
            assert_eq!(finished, self.model.units, "what was acknowledged is never executed again");
            assert_eq!((grant.epoch, grant.last_sequence), (self.model.epoch, self.model.last));
            self.known.push(Known { attempt: Attempt::of(executor, grant), sent: None });
        }
    }

    async fn report(&mut self, who: usize, events: u8, name: Option<u8>, usage: bool, gap: bool) {
        let Some(known) = pick(&mut self.known, who) else { return };
        let before = known.attempt.last;
        if gap {
            known.attempt.event(EventBody::Started);
        }
        let mut report = known.attempt.nothing();
        report.events = (0..events).map(|_| known.attempt.event(EventBody::Started)).collect();
        report.units = name.map(|name| unit(&format!("unit{name}"), "text", true)).into_iter().collect();
        report.usage = if usage { vec![call("unit0", 2, 3)] } else { vec![] };
        let expected = self.model.report(&known.attempt, &report, false);
        let answer = self.ledger.report(known.attempt.executor, report.clone()).await;
        assert_eq!(answer.verdict.standing, expected);
        if answer.verdict.standing == Standing::Gap || gap {
            // It sends again from what is stored.
            known.attempt.last = if self.model.holds(&known.attempt) { answer.verdict.stored_through } else { before };
        }
        known.sent = (expected != Standing::Gap).then_some(report);
    }

    async fn repeat(&mut self, who: usize) {
        let Some(known) = pick(&mut self.known, who) else { return };
        let Some(report) = known.sent.clone() else { return };
        let expected = self.model.report(&known.attempt, &report, true);
        let answer = self.ledger.report(known.attempt.executor, report).await;
        assert_eq!((answer.verdict.standing, answer.appended.len(), answer.new_units), (expected, 0, 0));
    }

    async fn finish(&mut self, who: usize, how: How) {
        let Some(known) = pick(&mut self.known, who) else { return };
        let report = match how {
            How::Complete => known.attempt.completed(),
            How::Fail => known.attempt.failed(),
            How::Cancel => known.attempt.cancelled(),
            How::GiveBack => known.attempt.given_back(),
            How::Park => known.attempt.parked(),
        };
        let expected = self.model.finish(&known.attempt, how);
        let answer = self.ledger.report(known.attempt.executor, report).await;
        assert_eq!(answer.verdict.standing, expected);
    }

    async fn fence(&mut self, who: usize, loss: bool) {
        let Some(known) = pick(&mut self.known, who) else { return };
        let losses = [known.attempt.loss()];
        self.model.fence(&known.attempt, loss);
        let mut conn = self.ledger.conn().await;
        if loss {
            storage::fence::take_back(&mut conn, self.ledger.term, &losses, now()).await.unwrap();
        } else {
            storage::fence::give_back(&mut conn, self.ledger.term, &losses, now()).await.unwrap();
        }
    }

    async fn wake(&mut self) {
        let later = now() + chrono::Duration::minutes(5);
        let ids = [self.execution];
        let mut conn = self.ledger.conn().await;
        let woken = storage::expiry::wake(&mut conn, self.ledger.term, &ids, later).await.unwrap();
        assert_eq!(woken.len(), usize::from(self.model.state == State::Waiting));
        if self.model.state == State::Waiting {
            self.model.ends(State::Queued, false);
        }
    }
}

fn pick(known: &mut [Known], who: usize) -> Option<&mut Known> {
    // Mostly the newest: the stale ones have little to say.
    let count = known.len();
    let at = if who.is_multiple_of(3) { who.checked_rem(count)? } else { count.checked_sub(1)? };
    known.get_mut(at)
}

#[test]
fn the_ledger_does_what_its_model_does() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ledger = runtime.block_on(Ledger::start());
    // The same sequences each time, so that a failure is the same for everyone.
    let seed = proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    let config = Config { cases: 64, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, seed);

    let result = runner.run(&prop::collection::vec(operation(), 5..40), |operations| {
        runtime.block_on(async {
            let execution = ledger.queued().await;
            let executors = [ExecutorId::generate(), ExecutorId::generate()];
            let model = Model {
                state: State::Queued,
                epoch: 0,
                last: Sequence(1),
                losses: 0,
                units: BTreeSet::new(),
                tokens: 0,
                finished_epoch: None,
            };
            let mut run = Run { ledger: &ledger, execution, executors, model, known: Vec::new() };
            for operation in &operations {
                run.apply(operation).await;
            }
            ledger.audit(execution).await;
        });
        Ok(())
    });

    if let Err(error) = result {
        panic!("{error}");
    }
    runtime.block_on(async { drop(ledger) });
}

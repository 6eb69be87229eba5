//! The ledger of the fake status: fencing and the order of events as the real one decides them, with assertions.

use std::collections::{BTreeMap, HashMap};

use domain::{CallId, EngineId, EventBody, EventRecord, ExecutionId, ExecutorId, Sequence, UnitKey, UserId, VersionId};
use protocol::{
    claim::{Claim, Grant, Held, Renewal, RenewalResponse},
    report::{Finish, Progress, Report, Standing, UnitReport, UsageRow, Verdict},
};
use serde_json::{Value, value::RawValue};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Queued,
    Held,
    Cancelling,
    Over,
}

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) state: State,
    pub(crate) epoch: i32,
    pub(crate) executor: Option<ExecutorId>,
    claim: Option<Claim>,
    pub(crate) last: Sequence,
    pub(crate) events: Vec<EventRecord>,
    pub(crate) units: BTreeMap<UnitKey, UnitReport>,
    /// In the order of their completion.
    pub(crate) completed: Vec<UnitKey>,
    pub(crate) usage: HashMap<CallId, UsageRow>,
    pub(crate) progress: Progress,
    pub(crate) finish: Option<Finish>,
    /// Finishes that were no end: given back, parked.
    pub(crate) left: Vec<Finish>,
    version: VersionId,
    input: Box<RawValue>,
    deadline: Option<chrono::DateTime<chrono::Utc>>,
    pub(crate) open: Vec<UnitKey>,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) rows: HashMap<ExecutionId, Row>,
    pub(crate) versions: HashMap<VersionId, Box<RawValue>>,
    pub(crate) goodbyes: Vec<ExecutorId>,
    pub(crate) renewals: usize,
    pub(crate) drain: bool,
    pub(crate) watched: bool,
    /// The next so many reports are answered with a gap.
    pub(crate) gaps: usize,
    /// Claims seen, by their id: how often.
    pub(crate) claims: HashMap<domain::ClaimId, usize>,
    pub(crate) reports: usize,
    pub(crate) largest_report: usize,
    /// Of everything that is granted.
    pub(crate) traceparent: Option<String>,
}

impl Ledger {
    pub(crate) fn submit(
        &mut self,
        flow: &Value,
        input: &Value,
        deadline: Option<chrono::DateTime<chrono::Utc>>,
    ) -> ExecutionId {
        let (id, version) = (ExecutionId::generate(), VersionId::generate());
        self.versions.insert(version, serde_json::value::to_raw_value(flow).unwrap());
        let row = Row {
            state: State::Queued,
            epoch: 0,
            executor: None,
            claim: None,
            last: Sequence(1),
            events: Vec::new(),
            units: BTreeMap::new(),
            completed: Vec::new(),
            usage: HashMap::new(),
            progress: Progress::default(),
            finish: None,
            left: Vec::new(),
            version,
            input: serde_json::value::to_raw_value(input).unwrap(),
            deadline,
            open: Vec::new(),
        };
        self.rows.insert(id, row);
        id
    }

    pub(crate) fn claim(&mut self, executor: ExecutorId, claim: Claim) -> Option<Grant> {
        *self.claims.entry(claim.claim_id).or_default() += 1;
        let row = self.rows.get_mut(&claim.execution_id)?;
        let again = row.executor == Some(executor) && row.claim == Some(claim);
        if !again {
            if row.state != State::Queued {
                return None;
            }
            (row.state, row.executor, row.claim) = (State::Held, Some(executor), Some(claim));
            row.epoch += 1;
        }
        Some(Grant {
            execution_id: claim.execution_id,
            epoch: row.epoch,
            last_sequence: row.last,
            user_id: UserId::generate(),
            engine_id: EngineId::generate(),
            version_id: row.version,
            input: row.input.clone(),
            deadline_at: row.deadline,
            finished: row.units.values().filter(|unit| unit.complete).map(|unit| unit.key.clone()).collect(),
            open: row.open.clone(),
            traceparent: self.traceparent.clone(),
        })
    }

    pub(crate) fn report(&mut self, executor: ExecutorId, report: &Report) -> Verdict {
        let gap = self.gaps > 0 && !report.events.is_empty();
        let row = self.rows.get_mut(&report.execution_id).expect("reports are about known executions");
        for usage in &report.usage {
            row.usage.insert(usage.call_id, usage.clone());
        }
        let verdict = |stored_through, standing| Verdict {
            execution_id: report.execution_id,
            epoch: report.epoch,
            stored_through,
            standing,
        };
        let held = matches!(row.state, State::Held | State::Cancelling);
        if !held || row.epoch != report.epoch || row.executor != Some(executor) {
            let finished = row.state == State::Over && row.epoch == report.epoch && report.finish.is_some();
            return verdict(row.last, if finished { Standing::Over } else { Standing::Lost });
        }
        if gap {
            self.gaps -= 1;
            return verdict(row.last, Standing::Gap);
        }
        let stored = row.last;
        for record in report.events.iter().filter(|record| record.sequence > stored) {
            assert_eq!(record.prev, row.last, "events come without a gap");
            assert_eq!(record.sequence.epoch(), report.epoch);
            assert!(!record.is_terminal(), "status writes terminal events");
            record.body().unwrap();
            row.last = record.sequence;
            row.events.push(record.clone());
        }
        for unit in &report.units {
            row.take_unit(unit);
        }
        if let Some(progress) = &report.progress {
            row.progress = progress.clone();
        }
        match &report.finish {
            None if row.state == State::Cancelling => verdict(row.last, Standing::Cancelling),
            None => verdict(row.last, Standing::Held),
            Some(finish) => {
                row.end(finish);
                verdict(row.last, Standing::Over)
            }
        }
    }

    /// Fences an attempt, as after a lost lease.
    pub(crate) fn take_back(&mut self, id: ExecutionId) {
        self.rows.get_mut(&id).unwrap().take_back();
    }

    pub(crate) fn renew(&mut self, renewal: &Renewal) -> RenewalResponse {
        self.renewals += 1;
        let mut answer = RenewalResponse { drain: self.drain, ..RenewalResponse::default() };
        for held in &renewal.held {
            let row = self.rows.get(&held.execution_id);
            let own = row.filter(|row| {
                row.executor == Some(renewal.executor_id) && row.epoch == held.epoch && row.state != State::Over
            });
            match own {
                Some(row) if row.state == State::Cancelling => answer.cancelling.push(held.execution_id),
                Some(_) => {}
                None => answer.lost.push(Held { ..*held }),
            }
        }
        if renewal.goodbye {
            self.goodbyes.push(renewal.executor_id);
        }
        answer
    }
}

impl Row {
    fn take_unit(&mut self, unit: &UnitReport) {
        if let Some(known) = self.units.get(&unit.key).filter(|known| known.complete) {
            assert_eq!(known.output.get(), unit.output.get(), "a finished unit never changes");
            return;
        }
        if unit.complete {
            self.completed.push(unit.key.clone());
        }
        self.units.insert(unit.key.clone(), unit.clone());
    }

    fn end(&mut self, finish: &Finish) {
        match finish {
            Finish::Completed { .. } | Finish::Failed { .. } | Finish::Cancelled { .. } => {
                self.finish = Some(finish.clone());
                self.state = State::Over;
            }
            Finish::GivenBack | Finish::Parked { .. } => {
                self.left.push(finish.clone());
                self.take_back();
            }
        }
    }

    fn take_back(&mut self) {
        self.open = self.shown().into_keys().filter(|key| !self.completed.contains(key)).collect();
        self.epoch += 1;
        self.last = self.last.next_in(self.epoch);
        (self.state, self.executor) = (State::Queued, None);
    }

    pub(crate) fn bodies(&self) -> Vec<EventBody> {
        self.events.iter().map(|record| record.body().unwrap()).collect()
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.events.iter().map(|record| record.name.as_str()).collect()
    }

    /// What a client shows that applies every event.
    pub(crate) fn shown(&self) -> BTreeMap<UnitKey, String> {
        let mut texts: BTreeMap<UnitKey, String> = BTreeMap::new();
        for body in self.bodies() {
            match body {
                EventBody::OutputDelta { node, unit, text, offset } => {
                    let shown = texts.entry(UnitKey { node, unit }).or_default();
                    assert_eq!(shown.chars().count() as u64, offset, "text is appended where it belongs");
                    shown.push_str(&text);
                }
                EventBody::OutputReset { node, unit, offset, .. } => {
                    let shown = texts.entry(UnitKey { node, unit }).or_default();
                    *shown = shown.chars().take(offset as usize).collect();
                }
                _ => {}
            }
        }
        texts
    }

    /// The stored text of a unit of text or of a chapter.
    pub(crate) fn text(&self, key: &UnitKey) -> String {
        match serde_json::from_str(self.units[key].output.get()).unwrap() {
            Value::String(text) => text,
            chapter => chapter["text"].as_str().unwrap().to_owned(),
        }
    }
}

//! What an executor says about one execution it holds.

use domain::{
    CallId, Event, EventBody, EventRecord, ExecutionId, ExecutorId, Failure, FailureCode, Sequence, UnitKey,
    WaitingReason,
};
use protocol::{
    claim::Grant,
    report::{CallOutcome, Finish, Report, UnitReport, UsageRow, UsageSource},
};

use crate::ledger::{now, raw};

/// One attempt, as its executor numbers it.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) executor: ExecutorId,
    pub(crate) execution: ExecutionId,
    pub(crate) epoch: i32,
    pub(crate) last: Sequence,
    pub(crate) grant: Grant,
}

impl Attempt {
    pub(crate) fn of(executor: ExecutorId, grant: Grant) -> Self {
        Self { executor, execution: grant.execution_id, epoch: grant.epoch, last: grant.last_sequence, grant }
    }

    /// The attempt as its executor knows it, whatever became of the execution.
    pub(crate) fn as_granted(&self) -> Self {
        Self { epoch: self.grant.epoch, ..self.clone() }
    }

    /// A report without anything in it.
    pub(crate) fn nothing(&self) -> Report {
        Report {
            execution_id: self.execution,
            epoch: self.epoch,
            events: vec![],
            units: vec![],
            usage: vec![],
            progress: None,
            finish: None,
        }
    }

    pub(crate) fn event(&mut self, body: EventBody) -> EventRecord {
        let prev = self.last;
        self.last = prev.next_in(self.epoch);
        let event =
            Event { sequence: self.last, prev, execution_id: self.execution, attempt: self.epoch, at: now(), body };
        event.record().unwrap()
    }

    pub(crate) fn delta(&mut self, node: &str, text: &str, offset: u64) -> EventRecord {
        self.event(EventBody::OutputDelta { node: node.into(), unit: 0, text: text.into(), offset })
    }

    pub(crate) fn reset(&mut self, node: &str) -> EventRecord {
        self.event(EventBody::OutputReset { node: node.into(), unit: 0, offset: 0, reason: "new_attempt".into() })
    }

    /// A report with one event.
    pub(crate) fn started(&mut self) -> Report {
        let event = self.event(EventBody::Started);
        Report { events: vec![event], ..self.nothing() }
    }

    /// A report with text of a unit that is not done.
    pub(crate) fn writing(&mut self, node: &str, text: &str) -> Report {
        let event = self.delta(node, text, 0);
        Report { events: vec![event], ..self.nothing() }
    }

    /// A report with a finished unit, its call and its event.
    pub(crate) fn unit(&mut self, node: &str, output: &str) -> Report {
        let event = self.event(EventBody::NodeCompleted { node: node.into() });
        Report {
            events: vec![event],
            units: vec![unit(node, output, true)],
            usage: vec![call(node, 3, 5)],
            ..self.nothing()
        }
    }

    pub(crate) fn finish(&self, finish: Finish) -> Report {
        Report { finish: Some(finish), ..self.nothing() }
    }

    pub(crate) fn completed(&self) -> Report {
        self.finish(Finish::Completed { result: raw(r#"{"book":"done"}"#), deliverables: vec![] })
    }

    pub(crate) fn failed(&self) -> Report {
        self.finish(Finish::Failed { failure: Failure::new(FailureCode::ProviderError, "it said\u{0}no") })
    }

    pub(crate) fn given_back(&self) -> Report {
        self.finish(Finish::GivenBack)
    }

    pub(crate) fn parked(&self) -> Report {
        self.finish(Finish::Parked { reason: WaitingReason::Retry, until: now() + chrono::Duration::minutes(1) })
    }

    pub(crate) fn cancelled(&self) -> Report {
        self.finish(Finish::Cancelled { acknowledged_at: now(), upstream_closed_at: now(), tokens: 7 })
    }

    pub(crate) fn loss(&self) -> storage::fence::Loss {
        storage::fence::Loss { execution_id: self.execution, epoch: self.epoch }
    }
}

pub(crate) fn unit(node: &str, output: &str, complete: bool) -> UnitReport {
    let output = raw(&serde_json::Value::String(output.to_owned()).to_string());
    UnitReport { key: UnitKey::node(node), output, complete }
}

pub(crate) fn call(node: &str, input: i64, output: i64) -> UsageRow {
    UsageRow {
        call_id: CallId::generate(),
        key: UnitKey::node(node),
        model: "sim/instant".into(),
        source: UsageSource::Provider,
        input_tokens: Some(input),
        output_tokens: Some(output),
        cache_read_tokens: None,
        cache_write_tokens: None,
        reasoning_tokens: None,
        outcome: CallOutcome::Completed,
        provider_request_id: None,
        raw: Some(raw(r#"{"prompt_tokens":3}"#)),
        started_at: now(),
        ended_at: now(),
    }
}

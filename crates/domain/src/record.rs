//! Events as they are stored and sent between services.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    event::{Event, EventBody, is_terminal_name},
    ids::ExecutionId,
    sequence::{Sequence, attempt_of},
};

/// An event as it is stored and sent: without what the log it is in already says. Rendering it gives the same text each
/// time, so that live and replayed events are equal to the letter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its number.
    #[serde(rename = "s")]
    pub sequence: Sequence,
    /// The number of the event before it.
    #[serde(rename = "p")]
    pub prev: Sequence,
    /// When it happened, in milliseconds.
    #[serde(rename = "t", with = "chrono::serde::ts_milliseconds")]
    pub at: DateTime<Utc>,
    /// Its name.
    #[serde(rename = "n")]
    pub name: String,
    /// The fields of its body as a JSON object, without the name.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Box<RawValue>>,
}

impl Event {
    /// The stored form.
    ///
    /// # Errors
    /// When the event cannot be written as JSON, which no event of ours is.
    pub fn record(&self) -> Result<EventRecord, serde_json::Error> {
        let body = serde_json::to_string(&self.body)?;
        let name = self.body.name();
        // `{"name":"..."` comes first (a test holds it); then the fields, if there are any.
        let rest = body.get(NAME.len() + name.len() + 1..).unwrap_or_default();
        let fields = match rest.strip_prefix(',') {
            Some(fields) => Some(RawValue::from_string(format!("{{{fields}"))?),
            None => None,
        };
        Ok(EventRecord { sequence: self.sequence, prev: self.prev, at: self.at, name: name.to_owned(), fields })
    }
}

/// How the JSON of a body begins.
const NAME: &str = "{\"name\":\"";

impl EventRecord {
    /// The data of the SSE event: `{sequence, prev, executionId, attempt, at, name, ..}` on one line.
    #[must_use]
    pub fn data(&self, execution: ExecutionId) -> String {
        let fields = self.fields.as_ref().map_or("{}", |fields| fields.get());
        let mut data = format!(
            "{{\"sequence\":{},\"prev\":{},\"executionId\":\"{execution}\",\"attempt\":{},\"at\":\"{}\",\"name\":\"{}\"",
            self.sequence.0,
            self.prev.0,
            attempt_of(self.sequence.epoch()),
            self.at.to_rfc3339_opts(SecondsFormat::Millis, true),
            self.name,
        );
        let fields = fields.trim_start_matches('{');
        if fields != "}" {
            data.push(',');
        }
        data.push_str(fields);
        data
    }

    /// What it says.
    ///
    /// # Errors
    /// When the stored fields are no event of this version.
    pub fn body(&self) -> Result<EventBody, serde_json::Error> {
        let fields = self.fields.as_ref().map_or("{}", |fields| fields.get()).trim_start_matches('{');
        let comma = if fields == "}" { "" } else { "," };
        serde_json::from_str(&format!("{NAME}{}\"{comma}{fields}", self.name))
    }

    /// About how many bytes it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.fields.as_ref().map_or(0, |fields| fields.get().len())
    }

    /// Whether nothing follows it.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        is_terminal_name(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::PublicFailure, execution::WaitingReason};

    fn event(body: EventBody) -> Event {
        Event {
            // The second attempt: status wrote in epoch 2.
            sequence: Sequence::new(3, 7),
            prev: Sequence::new(3, 6),
            execution_id: ExecutionId::generate(),
            attempt: 2,
            at: DateTime::from_timestamp_millis(1_790_000_000_123).unwrap(),
            body,
        }
    }

    fn every_shape() -> Vec<EventBody> {
        let (node, unit) = ("outline \"one\"".to_owned(), 3);
        vec![
            EventBody::Queued { reason: None },
            EventBody::Queued { reason: Some("woken".into()) },
            EventBody::Started,
            EventBody::OutputDelta { node: node.clone(), unit, text: "{नमस्ते}\n,\"".into(), offset: 3 },
            EventBody::OutputReset { node, unit, offset: 0, reason: "retry".into() },
            EventBody::Waiting { reason: WaitingReason::Provider, until: None },
            EventBody::UsageUpdated { input: 1, output: 2, total: 3 },
            EventBody::Failed { error: PublicFailure { code: "x".into(), detail: "{".into(), failed_node: None } },
            EventBody::Completed,
        ]
    }

    #[test]
    fn every_instant_of_an_event_is_in_milliseconds() {
        let instant = DateTime::from_timestamp_nanos(1_790_000_000_123_456_789);
        let body = EventBody::Waiting { reason: WaitingReason::Provider, until: Some(instant) };
        let event = Event { at: instant, ..event(body) };

        let data = event.record().unwrap().data(event.execution_id);
        let data: serde_json::Value = serde_json::from_str(&data).unwrap();

        assert_eq!(data["until"], data["at"]);
        assert_eq!(data["until"], "2026-09-21T14:13:20.123Z");
    }

    #[test]
    fn a_record_renders_the_same_data_as_the_event_itself() {
        for event in every_shape().into_iter().map(event) {
            let record = event.record().unwrap();

            assert_eq!(record.data(event.execution_id), serde_json::to_string(&event).unwrap());
            assert_eq!(record.body().unwrap(), event.body);
            assert_eq!(record.name, event.body.name());
        }
    }

    #[test]
    fn a_record_survives_being_stored() {
        for event in every_shape().into_iter().map(event) {
            let stored = serde_json::to_string(&event.record().unwrap()).unwrap();
            let back: EventRecord = serde_json::from_str(&stored).unwrap();

            assert_eq!(back.data(event.execution_id), serde_json::to_string(&event).unwrap());
        }
    }
}

//! Messages of the queue `submissions`, read: whole, or entry by entry when one of them cannot be read.

use std::time::Duration;

use broker::{DEAD_FROM, DEAD_REASON, Delivery, Message, Queue};
use protocol::{
    Envelope,
    submission::{Submission, SubmissionEntries, SubmissionStub, Submissions},
};
use serde_json::value::RawValue;

use crate::{leader::chain, service::Status};

/// How long the broker may take for a dead letter.
const DEAD_WITHIN: Duration = Duration::from_secs(5);

/// A message with what it carries.
pub(super) struct Letter {
    pub(super) delivery: Delivery,
    pub(super) submissions: Vec<Submission>,
    /// Of those that cannot be read: what is enough for a row that says so.
    pub(super) stubs: Vec<Submission>,
    pub(super) traceparent: Option<String>,
}

/// Reads a message. What nobody can read goes to the dead letters: the whole message, or the one entry.
pub(super) async fn open(status: &Status, delivery: Delivery) -> Option<Letter> {
    let error = match Envelope::<Submissions>::from_bytes(&delivery.body) {
        Ok(envelope) => {
            let traceparent = envelope.trace.map(|trace| trace.traceparent);
            return Some(Letter { delivery, submissions: envelope.body.submissions, stubs: Vec::new(), traceparent });
        }
        Err(error) => error,
    };
    if let Ok(envelope) = Envelope::<SubmissionEntries>::from_bytes(&delivery.body) {
        let traceparent = envelope.trace.map(|trace| trace.traceparent);
        return read_each(status, delivery, &envelope.body.submissions, traceparent).await;
    }
    status.metrics.dead_letters.inc();
    tracing::error!(error = %chain(&error), bytes = delivery.body.len(), "an unreadable message is dead");
    if let Err(error) = status.broker.dead_letter(delivery, &error.to_string(), DEAD_WITHIN).await {
        tracing::error!(error = %chain(&error), "the dead letter is given back");
    }
    None
}

async fn read_each(
    status: &Status,
    delivery: Delivery,
    entries: &[Box<RawValue>],
    traceparent: Option<String>,
) -> Option<Letter> {
    let (mut submissions, mut stubs) = (Vec::new(), Vec::new());
    for entry in entries {
        let error = match serde_json::from_str::<Submission>(entry.get()) {
            Ok(submission) => {
                submissions.push(submission);
                continue;
            }
            Err(error) => error,
        };
        if let Ok(stub) = serde_json::from_str::<SubmissionStub>(entry.get()) {
            tracing::error!(%error, execution.id = %stub.execution_id, "a submission cannot be read");
            stubs.push(stub.into_submission(status.now()));
            continue;
        }
        status.metrics.dead_letters.inc();
        tracing::error!(%error, bytes = entry.get().len(), "an unreadable submission is dead");
        let message = Message::persistent(entry.get().to_owned())
            .header(DEAD_REASON, error.to_string())
            .header(DEAD_FROM, Queue::Submissions.name());
        if let Err(error) = status.broker.publish(Queue::Dead, message, DEAD_WITHIN).await {
            // Dropped unsettled: it comes again, whole.
            tracing::error!(error = %chain(&error), "the message of a dead letter is given back");
            return None;
        }
    }
    Some(Letter { delivery, submissions, stubs, traceparent })
}

//! Messages of the queue `submissions`, read: whole, or entry by entry when one of them cannot be read.

use std::time::Duration;

use broker::{DEAD_FROM, DEAD_REASON, Delivery, Message, Queue};
use protocol::{
    Envelope, TraceContext,
    submission::{Submission, SubmissionEntries, SubmissionStub, Submissions},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::service::Status;

/// How long the broker may take for a dead letter.
const DEAD_WITHIN: Duration = Duration::from_secs(5);

/// A message with what it carries.
pub(super) struct Letter {
    pub(super) delivery: Delivery,
    pub(super) submissions: Vec<Submission>,
    /// Of those that cannot be read: what is enough for a row that says so.
    pub(super) stubs: Vec<Submission>,
    pub(super) trace: Option<TraceContext>,
}

/// One submission of a batch.
pub(super) struct Taken<'a> {
    pub(super) submission: &'a Submission,
    /// Of whoever submitted it.
    pub(super) context: Option<&'a TraceContext>,
    /// Only what names it could be read.
    pub(super) is_unreadable: bool,
}

impl Letter {
    /// What it carries, each with the context of whoever submitted it; releases before this one said it for all together.
    pub(super) fn submitted(&self) -> impl Iterator<Item = Taken<'_>> {
        let readable = self.submissions.iter().map(|one| (one, false));
        readable.chain(self.stubs.iter().map(|one| (one, true))).map(|(submission, is_unreadable)| Taken {
            submission,
            context: submission.trace.as_ref().or(self.trace.as_ref()),
            is_unreadable,
        })
    }
}

/// Reads a message. What nobody can read goes to the dead letters: the whole message, or the one entry.
pub(super) async fn open(status: &Status, delivery: Delivery) -> Option<Letter> {
    let error = match Envelope::<Submissions>::from_bytes(&delivery.body) {
        Ok(Envelope { trace, body, .. }) => {
            return Some(Letter { delivery, submissions: body.submissions, stubs: Vec::new(), trace });
        }
        Err(error) => error,
    };
    if let Ok(envelope) = Envelope::<SubmissionEntries>::from_bytes(&delivery.body) {
        return read_each(status, delivery, &envelope.body.submissions, envelope.trace).await;
    }
    status.metrics.dead_letters.inc();
    tracing::error!(error = %service::chain(&error), bytes = delivery.body.len(), "an unreadable message is dead");
    if let Err(error) = status.broker.dead_letter(delivery, &error.to_string(), DEAD_WITHIN).await {
        tracing::error!(error = %service::chain(&error), "the dead letter is given back");
    }
    None
}

async fn read_each(
    status: &Status,
    delivery: Delivery,
    entries: &[Box<RawValue>],
    trace: Option<TraceContext>,
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
            stubs.push(Submission { trace: trace_of(entry), ..stub.into_submission(status.now()) });
            continue;
        }
        status.metrics.dead_letters.inc();
        tracing::error!(%error, bytes = entry.get().len(), "an unreadable submission is dead");
        let message = Message::persistent(entry.get().to_owned())
            .header(DEAD_REASON, error.to_string())
            .header(DEAD_FROM, Queue::Submissions.name());
        if let Err(error) = status.broker.publish(Queue::Dead, message, DEAD_WITHIN).await {
            // Dropped unsettled: it comes again, whole.
            tracing::error!(error = %service::chain(&error), "the message of a dead letter is given back");
            return None;
        }
    }
    Some(Letter { delivery, submissions, stubs, trace })
}

/// Whoever submitted it, if that much can be read.
fn trace_of(entry: &RawValue) -> Option<TraceContext> {
    #[derive(Deserialize)]
    struct Traced {
        trace: TraceContext,
    }
    serde_json::from_str::<Traced>(entry.get()).ok().map(|traced| traced.trace)
}

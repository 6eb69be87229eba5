//! The path of a submission to status: packed, published under confirm, answered on the first proof of durability.

use std::{collections::HashMap, sync::Arc, time::Duration};

use broker::{Broker, Inbox, Message, Queue, ReplyTo};
use domain::ExecutionId;
use parking_lot::Mutex;
use protocol::{
    Envelope,
    submission::{Submission, SubmissionOutcome, SubmissionReplies, Submissions},
};
use service::Shutdown;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::Instant,
};
use tracing::{Instrument as _, Span};

use crate::metrics::Metrics;

/// How long status has to reply, and the broker to confirm.
const WITHIN: Duration = Duration::from_secs(1);
/// What cannot leave this soon is refused, not kept until the broker is back: intake says by an id's time whether it may still
/// be on its way.
const LEAVES_WITHIN: Duration = Duration::from_millis(100);
/// How long the broker may take for one message.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// How long a client waits at most, its submission's time in the queue of packets included.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// Submissions waiting to be packed.
const WAITING: usize = 4_096;
/// Submissions per message.
const PER_MESSAGE: usize = 64;
/// Bytes of input per message.
const BYTES_PER_MESSAGE: usize = 1 << 20;
/// Messages on their way at once: while they are, the next one is packed.
const IN_FLIGHT: usize = 2;
/// Replies that may wait to be read.
const REPLIES: usize = 16_384;

/// What is known of a submission when the client is answered.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Status replied: it is committed.
    Replied(SubmissionOutcome),
    /// The broker has it; status did not reply in time.
    Confirmed,
    /// Nobody has it, for sure.
    NotTaken,
    /// It may have been taken.
    Unknown,
}

struct Packet {
    submission: Submission,
    /// The request it is from.
    span: Span,
    confirmed: oneshot::Sender<Result<(), bool>>,
}

type Replies = Arc<Mutex<HashMap<ExecutionId, oneshot::Sender<SubmissionOutcome>>>>;

/// Hands submissions to the broker and replies to their senders.
pub(crate) struct Submitter {
    packets: mpsc::Sender<Packet>,
    replies: Replies,
    metrics: Metrics,
}

/// Forgets who waits, however the wait ends.
struct Waiting<'a> {
    replies: &'a Replies,
    id: ExecutionId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.replies.lock().remove(&self.id);
    }
}

impl Submitter {
    pub(crate) fn start(broker: &Arc<dyn Broker>, metrics: Metrics, shutdown: &Shutdown) -> Self {
        let (packets, waiting) = mpsc::channel(WAITING);
        let replies = Replies::default();
        let inbox = broker.inbox(REPLIES);
        let address = inbox.address();
        shutdown.spawn(deliver(inbox, Arc::clone(&replies), shutdown.clone()));
        shutdown.spawn(pack(Arc::clone(broker), waiting, address, shutdown.clone()));
        Self { packets, replies, metrics }
    }

    /// Submits, and says what is known when the client has to be answered. `reply_only` when the broker's confirm is not
    /// enough.
    pub(crate) async fn submit(&self, submission: Submission, reply_only: bool) -> Outcome {
        let id = submission.execution_id;
        let give_up = Instant::now() + ANSWER_WITHIN;
        let (reply, mut replied) = oneshot::channel();
        self.replies.lock().insert(id, reply);
        let _waiting = Waiting { replies: &self.replies, id };
        let (confirmed, confirm) = oneshot::channel();
        let packet = Packet { submission, span: Span::current(), confirmed };
        // A full queue of packets means that the broker is away or far behind.
        if tokio::time::timeout(WITHIN, self.packets.send(packet)).await.is_err() {
            return Outcome::NotTaken;
        }
        self.metrics.submissions.inc();
        let deadline = tokio::time::sleep(WITHIN);
        tokio::pin!(deadline, confirm);
        let mut confirmation = None;
        loop {
            tokio::select! {
                biased;
                Ok(outcome) = &mut replied => return Outcome::Replied(outcome),
                result = &mut confirm, if confirmation.is_none() => match result.unwrap_or(Err(true)) {
                    Ok(()) => confirmation = Some(()),
                    Err(false) => return Outcome::NotTaken,
                    // A reply may still come: it was perhaps taken before the connection broke.
                    Err(true) => {
                        return match tokio::time::timeout(WITHIN, &mut replied).await {
                            Ok(Ok(outcome)) => Outcome::Replied(outcome),
                            _ => Outcome::Unknown,
                        };
                    }
                },
                () = &mut deadline => break,
            }
        }
        if reply_only {
            return Outcome::Unknown;
        }
        // The reply is late: the confirm alone is a proof of durability, and worth a longer wait.
        if confirmation.is_none() {
            tokio::select! {
                biased;
                Ok(outcome) = &mut replied => return Outcome::Replied(outcome),
                result = &mut confirm => match result.unwrap_or(Err(true)) {
                    // Taken long after its id was made: intake may be further than the id's time. Who is answered now asks for
                    // it now, so the reply is worth another moment.
                    Ok(()) => if let Ok(Ok(outcome)) = tokio::time::timeout(WITHIN, &mut replied).await {
                        return Outcome::Replied(outcome);
                    },
                    Err(false) => return Outcome::NotTaken,
                    Err(true) => return Outcome::Unknown,
                },
                // It may still stand in the queue of packets: who left is not published any more.
                () = tokio::time::sleep_until(give_up) => return Outcome::Unknown,
            }
        }
        self.metrics.confirmed_only.inc();
        Outcome::Confirmed
    }
}

/// Packs what came while the last messages were on their way: at once when idle, together under load.
async fn pack(
    broker: Arc<dyn Broker>,
    mut waiting: mpsc::Receiver<Packet>,
    address: watch::Receiver<Option<ReplyTo>>,
    shutdown: Shutdown,
) {
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let first = tokio::select! {
            packet = waiting.recv() => packet,
            () = shutdown.abort.cancelled() => None,
        };
        let Some(first) = first else { return };
        let mut bytes = first.submission.input.get().len();
        let mut packets = vec![first];
        while packets.len() < PER_MESSAGE && bytes < BYTES_PER_MESSAGE {
            let Ok(packet) = waiting.try_recv() else { break };
            bytes += packet.submission.input.get().len();
            packets.push(packet);
        }
        let (broker, reply_to) = (Arc::clone(&broker), address.borrow().clone());
        shutdown.spawn(async move {
            // In an outage many waited in vain and were told so.
            packets.retain(|packet| !packet.confirmed.is_closed());
            if !packets.is_empty() {
                let span = span_of(&packets);
                publish(&*broker, packets, reply_to).instrument(span).await;
            }
            drop(permit);
        });
    }
}

/// The span of one message: below the request of its submission, or linked with the requests of all of them.
fn span_of(packets: &[Packet]) -> Span {
    if let [one] = packets {
        return tracing::info_span!(parent: &one.span, "publish", submissions = 1);
    }
    let span = tracing::info_span!(parent: None, "publish", submissions = packets.len());
    if service::trace::is_recorded(&span) {
        for packet in packets {
            span.follows_from(&packet.span);
        }
    }
    span
}

async fn publish(broker: &dyn Broker, packets: Vec<Packet>, reply_to: Option<ReplyTo>) {
    if broker.ready(LEAVES_WITHIN).await.is_err() {
        for packet in packets {
            // Whoever waited may have gone.
            let _gone = packet.confirmed.send(Err(false));
        }
        return;
    }
    let (mut submissions, mut confirms) = (Vec::with_capacity(packets.len()), Vec::with_capacity(packets.len()));
    for packet in packets {
        submissions.push(packet.submission);
        confirms.push(packet.confirmed);
    }
    let result = match Envelope::new(Submissions { submissions }, crate::trace::current()).to_bytes() {
        Ok(bytes) => {
            let message = Message::persistent(bytes).reply_to(reply_to);
            broker.publish(Queue::Submissions, message, CONFIRM_WITHIN).await.map_err(|error| {
                tracing::warn!(%error, "submissions are not confirmed");
                error.may_have_been_taken()
            })
        }
        Err(error) => {
            tracing::error!(%error, "submissions cannot be written");
            Err(false)
        }
    };
    for confirm in confirms {
        // Whoever waited may have been answered by a reply already.
        let _gone = confirm.send(result);
    }
}

/// Gives replies to those who wait for them.
async fn deliver(mut inbox: Inbox, replies: Replies, shutdown: Shutdown) {
    loop {
        let bytes = tokio::select! {
            bytes = inbox.next() => bytes,
            () = shutdown.abort.cancelled() => None,
        };
        let Some(bytes) = bytes else { return };
        match Envelope::<SubmissionReplies>::from_bytes(&bytes) {
            Ok(envelope) => {
                let mut waiting = replies.lock();
                for reply in envelope.body.replies {
                    if let Some(sender) = waiting.remove(&reply.execution_id) {
                        let _gone = sender.send(reply.outcome);
                    }
                }
            }
            Err(error) => tracing::error!(%error, "a reply cannot be read"),
        }
    }
}

#[cfg(test)]
#[path = "submit_tests.rs"]
mod tests;

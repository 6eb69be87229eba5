//! Intake: submissions from the broker become rows. Self-clocked: a batch is what came while the last one was committed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use broker::{Queue, ReplyTo};
use chrono::{DateTime, Utc};
use domain::{Failure, FailureCode, UserId};
use futures::FutureExt as _;
use protocol::{
    Envelope,
    submission::{Submission, SubmissionOutcome, SubmissionReplies, SubmissionReply},
};
use storage::{StorageError, identity::OwnerLimits, intake::NewExecution};
use tokio::time::Instant;
use tracing::Instrument as _;

mod letters;
mod write;

use letters::{Letter, Taken};
use write::{unstorable, write};

use crate::{leader::Term, scheduler::Drafts, service::Status, trace};

/// Messages that may be unsettled at once; each may carry many submissions.
const PREFETCH: u16 = 64;
/// Submissions per transaction.
const BATCH: usize = 256;
/// Bytes per transaction.
const BATCH_BYTES: usize = 8 << 20;
/// How long an owner's limits are believed.
const LIMITS_FOR: Duration = Duration::from_secs(5);
/// Silence after which nothing is on its way any more from a queue that is empty.
const QUIET_FOR: Duration = Duration::from_millis(100);
/// How long the broker may take to say how long the queue is: nothing is taken in meanwhile.
const DEPTH_WITHIN: Duration = Duration::from_millis(200);
/// How long intake waits after a failure before it takes the same batch again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Takes in until the term is over. What is unsettled then is given back by being dropped.
pub(crate) async fn run(status: Arc<Status>, term: Arc<Term>) {
    let mut consumer = status.broker.consume(Queue::Submissions, PREFETCH);
    // When the broker said last that its queue is empty, if nothing came since.
    let mut empty_at: Option<DateTime<Utc>> = None;
    loop {
        let first = tokio::select! {
            biased;
            () = term.over.cancelled() => return,
            () = status.shutdown.drain.cancelled() => return,
            delivery = consumer.next() => delivery,
            () = term.how_far.notified(), if empty_at.is_none() => {
                let now = status.now();
                empty_at = is_empty(&status).await.then_some(now);
                continue;
            }
            // What the queue had handed over by then has come by now.
            () = tokio::time::sleep(QUIET_FOR), if empty_at.is_some() => {
                empty_at.take().into_iter().for_each(|at| term.caught_up_to(at));
                continue;
            }
        };
        empty_at = None;
        let Some(first) = first else { return };
        let mut letters: Vec<Letter> = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        let mut next = Some(first);
        while let Some(delivery) = next.take() {
            bytes += delivery.body.len();
            if let Some(letter) = letters::open(&status, delivery).await {
                count += letter.submitted().count();
                letters.push(letter);
            }
            if count < BATCH && bytes < BATCH_BYTES {
                next = consumer.next().now_or_never().flatten();
            }
        }
        // The queue is in order: whatever was made before the newest of these has come too. Not so whatever was made before now:
        // behind this batch there may be a long queue.
        let taken = letters.iter().flat_map(Letter::submitted);
        let newest = taken.filter_map(|one| one.submission.execution_id.made_at()).max();
        tokio::select! {
            () = handle(&status, &term, letters) => {}
            () = term.over.cancelled() => return,
        }
        if let Some(at) = newest {
            term.caught_up_to(at);
        }
    }
}

/// Whether the broker has nothing for intake. A consumer that is still on its way to it gets nothing either.
async fn is_empty(status: &Status) -> bool {
    matches!(status.broker.depth(Queue::Submissions, DEPTH_WITHIN).await, Ok(0))
}

/// Takes a batch in, in a span that goes on where its one message was sent, or is linked with all who submitted.
async fn handle(status: &Arc<Status>, term: &Arc<Term>, letters: Vec<Letter>) {
    let count: usize = letters.iter().map(|letter| letter.submitted().count()).sum();
    let span = tracing::info_span!("intake", otel.kind = "consumer", submissions = count);
    match letters.as_slice() {
        [one] => service::trace::handles(&span, 1, one.trace.iter().map(trace::sent)),
        many => {
            let submitters = many.iter().flat_map(Letter::submitted).filter_map(|one| one.context.map(trace::sent));
            service::trace::handles(&span, many.len(), submitters);
        }
    }
    take_in(status, term, letters).instrument(span).await;
}

/// Commits the batch, then settles, then replies, then queues: a side effect happens only for rows really inserted.
async fn take_in(status: &Arc<Status>, term: &Arc<Term>, letters: Vec<Letter>) {
    let all: Vec<Taken<'_>> = letters.iter().flat_map(Letter::submitted).collect();
    status.metrics.intake_batch.observe(f64::from(u32::try_from(all.len()).unwrap_or(u32::MAX)));
    status.failpoint.reach("intake.before_commit");
    let timer = status.metrics.intake_seconds.start_timer();
    let mut answers = HashMap::new();
    // Nothing is settled while the database is away: the broker keeps what is behind the prefetch.
    let limits = loop {
        match owners(status, term, &all).await {
            Ok(limits) => break limits,
            Err(error) => pause(&error).await,
        }
    };
    // Once: a batch that is written again is the same batch.
    let batch = judge(term, &all, &limits);
    loop {
        match write(status, term, &batch, &limits).await {
            Ok(taken) => {
                answers.extend(taken);
                break;
            }
            Err(error) => pause(&error).await,
        }
    }
    timer.observe_duration();
    status.failpoint.reach("intake.after_commit");
    reply(status, &letters, &answers);
    status.failpoint.reach("intake.after_reply");
    for letter in letters {
        letter.delivery.ack();
    }
    term.released.notify_one();
}

async fn pause(error: &StorageError) {
    tracing::warn!(error = %service::chain(error), "intake waits");
    tokio::time::sleep(RETRY_AFTER).await;
}

/// The limits of the batch's owners: known for a few seconds, else read in one statement.
async fn owners(status: &Status, term: &Term, all: &[Taken<'_>]) -> Result<HashMap<UserId, OwnerLimits>, StorageError> {
    let now = Instant::now();
    let users: HashSet<UserId> = all.iter().map(|taken| taken.submission.user_id).collect();
    let mut found: HashMap<UserId, OwnerLimits> = HashMap::new();
    {
        let mut known = term.owners.lock();
        known.retain(|_, (_, until)| *until > now);
        found.extend(users.iter().filter_map(|user| known.get(user).map(|(limits, _)| (*user, *limits))));
    }
    let missing: Vec<UserId> = users.into_iter().filter(|user| !found.contains_key(user)).collect();
    if !missing.is_empty() {
        let mut conn = status.connection().await?;
        let read = storage::identity::limits(&mut conn, &missing).await?;
        let mut known = term.owners.lock();
        for limits in read {
            known.insert(limits.user_id, (limits, now + LIMITS_FOR));
            found.insert(limits.user_id, limits);
        }
    }
    Ok(found)
}

fn share(submission: &Submission, limits: &HashMap<UserId, OwnerLimits>) -> f64 {
    limits.get(&submission.user_id).map_or(1.0, |limits| limits.weight) * submission.priority.weight()
}

/// Gives each submission its tag, or its refusal.
fn judge<'a>(term: &Term, all: &[Taken<'a>], limits: &HashMap<UserId, OwnerLimits>) -> Vec<NewExecution<'a>> {
    let schedule = term.schedule.lock();
    let mut drafts = Drafts::default();
    let mut coming: HashMap<UserId, usize> = HashMap::new();
    all.iter()
        .map(|taken| {
            let submission = taken.submission;
            let traceparent = taken.context.map(|context| context.traceparent.as_str());
            if taken.is_unreadable {
                let rejected = Some(unstorable("the submission cannot be read"));
                return NewExecution { submission, tag: 0.0, traceparent, rejected };
            }
            let new = coming.entry(submission.user_id).or_default();
            let limit = limits.get(&submission.user_id).and_then(|limits| limits.max_queued);
            let full = limit.is_some_and(|limit| schedule.queued_of(submission.user_id) + *new >= limit as usize);
            let rejected = full.then(|| Failure::new(FailureCode::QueueFull, "too many executions are queued already"));
            *new += usize::from(!full);
            let share = share(submission, limits);
            let tag =
                if full { 0.0 } else { schedule.tag(&mut drafts, submission.user_id, submission.engine_id, share) };
            NewExecution { submission, tag, traceparent, rejected }
        })
        .collect()
}

/// One message per gateway for the whole batch.
fn reply(status: &Status, letters: &[Letter], answers: &HashMap<domain::ExecutionId, SubmissionOutcome>) {
    let mut by_gateway: BTreeMap<&ReplyTo, Vec<SubmissionReply>> = BTreeMap::new();
    for letter in letters {
        let Some(address) = &letter.delivery.reply_to else { continue };
        let replies = letter.submissions.iter().chain(&letter.stubs).filter_map(|submission| {
            let outcome = answers.get(&submission.execution_id)?.clone();
            Some(SubmissionReply { execution_id: submission.execution_id, outcome })
        });
        by_gateway.entry(address).or_default().extend(replies);
    }
    for (address, replies) in by_gateway {
        match Envelope::new(SubmissionReplies { replies }, trace::current()).to_bytes() {
            Ok(bytes) => status.broker.reply(address, bytes.into()),
            Err(error) => tracing::error!(%error, "a reply cannot be written"),
        }
    }
}

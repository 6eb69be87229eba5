//! Intake: submissions from the broker become rows. Self-clocked: a batch is what came while the last one was committed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use broker::{Delivery, Queue, ReplyTo};
use chrono::{DateTime, Utc};
use domain::{Failure, FailureCode, State, UserId};
use futures::{FutureExt as _, future::BoxFuture};
use protocol::{
    Envelope, TraceContext,
    submission::{Submission, SubmissionOutcome, SubmissionReplies, SubmissionReply, Submissions},
};
use storage::{
    StorageError,
    identity::OwnerLimits,
    intake::{NewExecution, TakenIn},
};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::{
    leader::{Term, chain},
    reconcile::reconcile,
    scheduler::{Drafts, Job},
    service::Status,
    trace,
};

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

/// A message with what it carries.
struct Letter {
    delivery: Delivery,
    submissions: Vec<Submission>,
    trace: Option<TraceContext>,
}

impl Letter {
    /// What it carries, each with the context of whoever submitted it; releases before this one said it for all together.
    fn submitted(&self) -> impl Iterator<Item = (&Submission, Option<&TraceContext>)> {
        self.submissions.iter().map(|one| (one, one.trace.as_ref().or(self.trace.as_ref())))
    }
}

/// A submission with its submitter's `traceparent`.
type Submitted<'a> = (&'a Submission, Option<&'a str>);

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
            if let Some(letter) = open(&status, delivery).await {
                count += letter.submissions.len();
                letters.push(letter);
            }
            if count < BATCH && bytes < BATCH_BYTES {
                next = consumer.next().now_or_never().flatten();
            }
        }
        // The queue is in order: whatever was made before the newest of these has come too. Not so whatever was made before now:
        // behind this batch there may be a long queue.
        let submissions = letters.iter().flat_map(|letter| &letter.submissions);
        let newest = submissions.filter_map(|submission| submission.execution_id.made_at()).max();
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

/// Reads a message. One that nobody can read goes to the dead letters.
async fn open(status: &Status, delivery: Delivery) -> Option<Letter> {
    match Envelope::<Submissions>::from_bytes(&delivery.body) {
        Ok(envelope) => Some(Letter { delivery, submissions: envelope.body.submissions, trace: envelope.trace }),
        Err(error) => {
            status.metrics.dead_letters.inc();
            tracing::error!(error = %chain(&error), bytes = delivery.body.len(), "an unreadable submission is dead");
            let moved = status.broker.dead_letter(delivery, &error.to_string(), Duration::from_secs(5)).await;
            if let Err(error) = moved {
                tracing::error!(error = %chain(&error), "the dead letter is given back");
            }
            None
        }
    }
}

/// Takes a batch in, in a span that goes on where its one message was sent, or is linked with all who submitted.
async fn handle(status: &Arc<Status>, term: &Arc<Term>, letters: Vec<Letter>) {
    let count: usize = letters.iter().map(|letter| letter.submissions.len()).sum();
    let span = tracing::info_span!("intake", otel.kind = "consumer", submissions = count);
    match letters.as_slice() {
        [one] => service::trace::handles(&span, 1, one.trace.iter().map(trace::sent)),
        many => {
            let submitters =
                many.iter().flat_map(Letter::submitted).filter_map(|(_, context)| context.map(trace::sent));
            service::trace::handles(&span, many.len(), submitters);
        }
    }
    take_in(status, term, letters).instrument(span).await;
}

/// Commits the batch, then settles, then replies, then queues: a side effect happens only for rows really inserted.
async fn take_in(status: &Arc<Status>, term: &Arc<Term>, letters: Vec<Letter>) {
    let all: Vec<Submitted<'_>> = letters
        .iter()
        .flat_map(Letter::submitted)
        .map(|(one, context)| (one, context.map(|context| context.traceparent.as_str())))
        .collect();
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
    tracing::warn!(error = %chain(error), "intake waits");
    tokio::time::sleep(RETRY_AFTER).await;
}

/// The limits of the batch's owners: known for a few seconds, else read in one statement.
async fn owners(
    status: &Status,
    term: &Term,
    all: &[Submitted<'_>],
) -> Result<HashMap<UserId, OwnerLimits>, StorageError> {
    let now = Instant::now();
    let users: HashSet<UserId> = all.iter().map(|(submission, _)| submission.user_id).collect();
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
fn judge<'a>(term: &Term, all: &[Submitted<'a>], limits: &HashMap<UserId, OwnerLimits>) -> Vec<NewExecution<'a>> {
    let schedule = term.schedule.lock();
    let mut drafts = Drafts::default();
    let mut coming: HashMap<UserId, usize> = HashMap::new();
    all.iter()
        .map(|(submission, traceparent)| {
            let new = coming.entry(submission.user_id).or_default();
            let limit = limits.get(&submission.user_id).and_then(|limits| limits.max_queued);
            let full = limit.is_some_and(|limit| schedule.queued_of(submission.user_id) + *new >= limit as usize);
            let rejected = full.then(|| Failure::new(FailureCode::QueueFull, "too many executions are queued already"));
            *new += usize::from(!full);
            let share = share(submission, limits);
            let tag =
                if full { 0.0 } else { schedule.tag(&mut drafts, submission.user_id, submission.engine_id, share) };
            NewExecution { submission, tag, traceparent: *traceparent, rejected }
        })
        .collect()
}

/// Writes a batch; a poisonous one is halved until the poison is alone.
fn write<'a>(
    status: &'a Arc<Status>,
    term: &'a Arc<Term>,
    batch: &'a [NewExecution<'a>],
    limits: &'a HashMap<UserId, OwnerLimits>,
) -> BoxFuture<'a, Result<Vec<(domain::ExecutionId, SubmissionOutcome)>, StorageError>> {
    async move {
        let mut conn = status.connection().await?;
        let written = storage::intake::take_in(&mut conn, term.number, batch, status.now()).await;
        drop(conn);
        match written {
            Ok(taken) => {
                recall(status, term, batch, &taken).await;
                Ok(enter(status, term, batch, taken, limits))
            }
            Err(StorageError::Poison(error)) if batch.len() == 1 => {
                tracing::error!(%error, "a submission cannot be stored");
                let rejected = SubmissionOutcome::Rejected {
                    code: FailureCode::InvalidRequest,
                    detail: "the submission cannot be stored".to_owned(),
                    retry_after_ms: None,
                };
                status.metrics.rejected.inc();
                Ok(batch.first().map(|new| (new.submission.execution_id, rejected)).into_iter().collect())
            }
            Err(StorageError::Poison(_)) => {
                let (first, second) = batch.split_at(batch.len() / 2);
                let mut answers = write(status, term, first, limits).await?;
                answers.extend(write(status, term, second, limits).await?);
                Ok(answers)
            }
            Err(error) => Err(error),
        }
    }
    .boxed()
}

/// What came before but is not known here was committed by a write whose answer was lost: the ledger says where it is.
async fn recall(status: &Status, term: &Term, batch: &[NewExecution<'_>], taken: &[TakenIn]) {
    let ids: Vec<domain::ExecutionId> = {
        let schedule = term.schedule.lock();
        batch
            .iter()
            .zip(taken)
            .filter(|(_, taken)| matches!(taken, TakenIn::Redelivered { state } if !state.is_terminal()))
            .map(|(new, _)| new.submission.execution_id)
            .filter(|id| schedule.place(*id).is_none())
            .collect()
    };
    if let Err(error) = reconcile(status, term, &ids).await {
        tracing::warn!(error = %chain(&error), "what came again is looked up later");
        ids.into_iter().for_each(|id| term.doubts.doubt(id));
    }
}

/// Queues what was inserted and says what became of each.
fn enter(
    status: &Status,
    term: &Term,
    batch: &[NewExecution<'_>],
    taken: Vec<TakenIn>,
    limits: &HashMap<UserId, OwnerLimits>,
) -> Vec<(domain::ExecutionId, SubmissionOutcome)> {
    let now = status.now();
    let mut answers = Vec::with_capacity(batch.len());
    for (new, taken) in batch.iter().zip(taken) {
        let submission = new.submission;
        let id = submission.execution_id;
        let outcome = match taken {
            TakenIn::Inserted { state: State::Queued, events } => {
                status.metrics.submissions.inc();
                let job = Job {
                    id,
                    user: submission.user_id,
                    engine: submission.engine_id,
                    tag: new.tag,
                    share: share(submission, limits),
                    limit: limits.get(&submission.user_id).and_then(|limits| limits.max_running),
                    started: false,
                };
                term.schedule.lock().queue(job, None);
                term.due(submission.queue_deadline_at.into_iter().chain(submission.deadline_at).min());
                status.live.show(id, &events);
                let queue = term.schedule.lock().block(id, now);
                SubmissionOutcome::Accepted { queue }
            }
            TakenIn::Inserted { .. } => {
                status.metrics.rejected.inc();
                rejection(new.rejected.as_ref())
            }
            TakenIn::Redelivered { .. } => {
                status.metrics.redelivered.inc();
                SubmissionOutcome::Accepted { queue: term.schedule.lock().block(id, now) }
            }
            TakenIn::Replayed { execution_id, version_id, created_at } => {
                SubmissionOutcome::Replayed { execution_id, version_id, created_at }
            }
            TakenIn::Mismatch => SubmissionOutcome::Mismatch,
            TakenIn::NotResumable { detail } => SubmissionOutcome::NotResumable { detail },
        };
        answers.push((id, outcome));
    }
    answers
}

fn rejection(failure: Option<&Failure>) -> SubmissionOutcome {
    let code = failure.map_or(FailureCode::Internal, |failure| failure.code);
    let detail = failure.map(|failure| failure.detail.clone()).unwrap_or_default();
    SubmissionOutcome::Rejected { code, detail, retry_after_ms: Some(1_000) }
}

/// One message per gateway for the whole batch.
fn reply(status: &Status, letters: &[Letter], answers: &HashMap<domain::ExecutionId, SubmissionOutcome>) {
    let mut by_gateway: BTreeMap<&ReplyTo, Vec<SubmissionReply>> = BTreeMap::new();
    for letter in letters {
        let Some(address) = &letter.delivery.reply_to else { continue };
        let replies = letter.submissions.iter().filter_map(|submission| {
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

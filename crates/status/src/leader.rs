//! Leadership: one term at a time. Everything of a term ends with its token; what it keeps in memory is rebuilt by the next.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use domain::{ExecutionId, State, UserId};
use parking_lot::Mutex;
use secrecy::ExposeSecret as _;
use storage::{StorageError, backlog::Unfinished, identity::OwnerLimits};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    dispatch, intake,
    leases::{self, Leases},
    scheduler::{Job, Schedule},
    service::Status,
    timers, upkeep,
};

/// How long a standby waits before it tries again to lead.
const STAND_EVERY: Duration = Duration::from_millis(500);

/// What the leader keeps in memory during one term.
pub(crate) struct Term {
    /// The number that every write carries.
    pub(crate) number: i64,
    /// Ends everything of this term.
    pub(crate) over: CancellationToken,
    /// The queue.
    pub(crate) schedule: Mutex<Schedule>,
    /// Who holds what.
    pub(crate) leases: Leases,
    /// Something may be released.
    pub(crate) released: Notify,
    /// Waiting executions by the time they wake.
    pub(crate) wakes: Mutex<BTreeSet<(DateTime<Utc>, ExecutionId)>>,
    /// The earliest deadline that anybody told of.
    pub(crate) deadline: Mutex<Option<DateTime<Utc>>>,
    /// A wake-up, deadline or eligibility has come nearer.
    pub(crate) sooner: Notify,
    /// Everything that was made before this time is taken in.
    caught_up: Mutex<DateTime<Utc>>,
    /// Somebody wants to know how far intake is.
    pub(crate) how_far: Notify,
    /// Owners' limits, for a few seconds.
    pub(crate) owners: Mutex<HashMap<UserId, (OwnerLimits, Instant)>>,
    ends: Mutex<HashMap<ExecutionId, Vec<oneshot::Sender<()>>>>,
}

impl Term {
    fn new(number: i64) -> Self {
        Self {
            number,
            over: CancellationToken::new(),
            schedule: Mutex::default(),
            leases: Leases::new(),
            released: Notify::new(),
            wakes: Mutex::default(),
            deadline: Mutex::new(None),
            sooner: Notify::new(),
            // What was accepted while nobody led waits in the broker.
            caught_up: Mutex::new(DateTime::UNIX_EPOCH),
            how_far: Notify::new(),
            owners: Mutex::default(),
            ends: Mutex::default(),
        }
    }

    /// Resolves when the execution reaches a terminal state. Ask before the change that may bring it.
    pub(crate) fn end_of(&self, execution: ExecutionId) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut ends = self.ends.lock();
        let waiting = ends.entry(execution).or_default();
        // Who stopped waiting leaves a closed sender behind.
        waiting.retain(|sender| !sender.is_closed());
        waiting.push(sender);
        receiver
    }

    /// Wakes those who wait for this end.
    pub(crate) fn ended(&self, execution: ExecutionId) {
        for sender in self.ends.lock().remove(&execution).unwrap_or_default() {
            // Whoever asked may have gone.
            let _gone = sender.send(());
        }
    }

    /// Forgets waiters that went away without an end.
    pub(crate) fn forget_gone(&self) {
        self.ends.lock().retain(|_, waiting| {
            waiting.retain(|sender| !sender.is_closed());
            !waiting.is_empty()
        });
    }

    /// Notes that intake has everything that was made before this time.
    pub(crate) fn caught_up_to(&self, at: DateTime<Utc>) {
        let mut caught_up = self.caught_up.lock();
        *caught_up = (*caught_up).max(at);
    }

    /// Whether intake has everything that was made before this time; if not, it will soon say how far it is.
    pub(crate) fn is_caught_up_to(&self, at: DateTime<Utc>) -> bool {
        let passed = *self.caught_up.lock() > at;
        if !passed {
            self.how_far.notify_one();
        }
        passed
    }

    /// Notes a deadline.
    pub(crate) fn due(&self, at: Option<DateTime<Utc>>) {
        let Some(at) = at else { return };
        let mut deadline = self.deadline.lock();
        if deadline.is_none_or(|known| at < known) {
            *deadline = Some(at);
            self.sooner.notify_one();
        }
    }

    /// Notes when a waiting execution wakes.
    pub(crate) fn wakes(&self, execution: ExecutionId, at: DateTime<Utc>) {
        self.wakes.lock().insert((at, execution));
        self.sooner.notify_one();
    }
}

/// Tries to lead for as long as the process lives.
pub(crate) async fn stand_for_election(status: Arc<Status>) {
    loop {
        tokio::select! {
            () = status.shutdown.drain.cancelled() => return,
            ended = attempt(&status) => if let Err(error) = ended {
                tracing::warn!(error = %chain(&error), "not leading");
            },
        }
        tokio::select! {
            () = status.shutdown.drain.cancelled() => return,
            () = tokio::time::sleep(STAND_EVERY) => {}
        }
    }
}

/// Leads for one term, if nobody else does.
async fn attempt(status: &Arc<Status>) -> Result<(), StorageError> {
    let database = status.database_url.expose_secret();
    let Some(leadership) = storage::leader::stand(database, status.id, &status.url).await? else { return Ok(()) };
    let term = Arc::new(Term::new(leadership.term));
    let end = term.over.clone().drop_guard();
    rebuild(status, &term).await?;
    tracing::info!(term = term.number, "leading");
    status.term.store(Some(Arc::clone(&term)));
    status.metrics.leading.set(1);
    let tasks = [
        status.shutdown.spawn(intake::run(Arc::clone(status), Arc::clone(&term))),
        status.shutdown.spawn(dispatch::run(Arc::clone(status), Arc::clone(&term))),
        status.shutdown.spawn(leases::watch(Arc::clone(status), Arc::clone(&term))),
        status.shutdown.spawn(timers::run(Arc::clone(status), Arc::clone(&term))),
        status.shutdown.spawn(upkeep::run(Arc::clone(status), Arc::clone(&term))),
    ];
    tokio::select! {
        () = leadership.lost() => tracing::warn!(term = term.number, "leadership lost"),
        () = status.shutdown.drain.cancelled() => hand_over(status, &term).await,
    }
    status.term.store(None);
    status.metrics.leading.set(0);
    drop(end);
    for task in tasks {
        // A task of a term that is over has nothing to say; its panic is logged by the runtime.
        drop(task.await);
    }
    Ok(())
}

/// A leader that drains keeps granting and taking reports until nothing is held, so that executors which drain with it can
/// finish; it ends at `abort`.
async fn hand_over(status: &Arc<Status>, term: &Arc<Term>) {
    tokio::select! {
        () = status.shutdown.abort.cancelled() => {}
        () = term.leases.idle() => {}
    }
}

/// Reads everything that is unfinished into memory: before the first release.
async fn rebuild(status: &Arc<Status>, term: &Arc<Term>) -> Result<(), StorageError> {
    let mut conn = status.connection().await?;
    storage::upkeep::ensure_partitions(&mut conn, status.now(), 3).await?;
    for unfinished in storage::backlog::unfinished(&mut conn).await? {
        restore(term, &unfinished);
    }
    let next = storage::expiry::next_deadline(&mut conn).await?;
    term.due(next);
    Ok(())
}

/// Puts one execution of the ledger where it belongs.
pub(crate) fn restore(term: &Term, unfinished: &Unfinished) {
    let job = job_of(unfinished);
    match unfinished.state {
        State::Queued => term.schedule.lock().queue(job, unfinished.eligible_at),
        State::Processing | State::Cancelling => {
            term.schedule.lock().run(job);
            if let Some(executor) = unfinished.executor_id {
                let cancelling = unfinished.state == State::Cancelling;
                term.leases.hold(job.id, unfinished.epoch, executor, None, cancelling);
            }
        }
        State::Waiting => {
            if let Some(at) = unfinished.eligible_at {
                term.wakes(job.id, at);
            }
        }
        _ => {}
    }
    if unfinished.eligible_at.is_some() {
        term.sooner.notify_one();
    }
}

/// What the queue has to know of an execution of the ledger.
pub(crate) fn job_of(unfinished: &Unfinished) -> Job {
    Job {
        id: unfinished.execution_id,
        user: unfinished.user_id,
        engine: unfinished.engine_id,
        tag: unfinished.tag,
        share: unfinished.weight * unfinished.priority.weight(),
        limit: unfinished.max_running,
        started: unfinished.started,
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

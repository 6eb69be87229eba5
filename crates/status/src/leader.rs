//! Leadership: one term at a time. Everything of a term ends with its token; what it keeps in memory is rebuilt by the next.

use std::{
    collections::{BTreeSet, HashMap},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use domain::{ExecutionId, UserId};
use parking_lot::Mutex;
use secrecy::ExposeSecret as _;
use storage::{
    StorageError,
    identity::OwnerLimits,
    leader::{Candidate, Election, Leadership},
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    dispatch, intake,
    leases::Leases,
    reconcile::{self, Doubts, restore},
    scheduler::Schedule,
    service::Status,
    sessions, timers, upkeep,
    writers::{self, Inbox, Writers, writers},
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
    /// What the ledger has to be asked about.
    pub(crate) doubts: Doubts,
    /// Something may be released.
    pub(crate) released: Notify,
    /// Waiting executions by the time they wake.
    pub(crate) wakes: Mutex<BTreeSet<(DateTime<Utc>, ExecutionId)>>,
    /// The earliest deadline that anybody told of.
    deadline: Mutex<Option<DateTime<Utc>>>,
    /// A wake-up, deadline or eligibility has come nearer.
    pub(crate) sooner: Notify,
    /// Everything that was made before this time is taken in.
    caught_up: Mutex<DateTime<Utc>>,
    /// Somebody wants to know how far intake is.
    pub(crate) how_far: Notify,
    /// Owners' limits, for a few seconds.
    pub(crate) owners: Mutex<HashMap<UserId, (OwnerLimits, Instant)>>,
    /// Where claims and reports are handed in.
    pub(crate) writers: Writers,
    ends: Mutex<HashMap<ExecutionId, Vec<oneshot::Sender<()>>>>,
}

impl Term {
    fn new(number: i64) -> (Self, Inbox) {
        let (writers, inbox) = writers();
        let term = Self {
            number,
            writers,
            over: CancellationToken::new(),
            schedule: Mutex::default(),
            leases: Leases::new(),
            doubts: Doubts::default(),
            released: Notify::new(),
            wakes: Mutex::default(),
            deadline: Mutex::new(None),
            sooner: Notify::new(),
            // What was accepted while nobody led waits in the broker.
            caught_up: Mutex::new(DateTime::UNIX_EPOCH),
            how_far: Notify::new(),
            owners: Mutex::default(),
            ends: Mutex::default(),
        };
        (term, inbox)
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

    /// The earliest deadline that was noted.
    pub(crate) fn deadline(&self) -> Option<DateTime<Utc>> {
        *self.deadline.lock()
    }

    /// Takes a deadline that has passed out, before the ledger is asked: what is noted meanwhile counts beside its answer.
    pub(crate) fn passed(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.deadline.lock().take_if(|at| *at <= now)
    }

    /// Notes when a waiting execution wakes.
    pub(crate) fn wakes(&self, execution: ExecutionId, at: DateTime<Utc>) {
        self.wakes.lock().insert((at, execution));
        self.sooner.notify_one();
    }
}

/// Tries to lead for as long as the process lives. Who leads is not interrupted by draining: a leader hands over.
pub(crate) async fn stand_for_election(status: Arc<Status>) {
    let mut candidate = None;
    loop {
        let stood = tokio::select! {
            biased;
            () = status.shutdown.drain.cancelled() => return,
            stood = stand(&status, candidate.take()) => stood,
        };
        match stood {
            Ok(Election::Won(leadership)) => {
                if let Err(error) = lead(&status, leadership).await {
                    tracing::warn!(error = %service::chain(&error), "not leading");
                }
            }
            Ok(Election::Lost(waiting)) => candidate = Some(waiting),
            Err(error) => tracing::warn!(error = %service::chain(&error), "not standing for election"),
        }
        tokio::select! {
            () = status.shutdown.drain.cancelled() => return,
            () = tokio::time::sleep(STAND_EVERY) => {}
        }
    }
}

async fn stand(status: &Status, candidate: Option<Candidate>) -> Result<Election, StorageError> {
    let candidate = match candidate {
        Some(candidate) => candidate,
        None => Candidate::connect(status.database_url.expose_secret()).await?,
    };
    candidate.stand(status.id, &status.url).await
}

/// Leads for one term.
async fn lead(status: &Arc<Status>, leadership: Leadership) -> Result<(), StorageError> {
    let (term, inbox) = Term::new(leadership.term);
    let term = Arc::new(term);
    let end = term.over.clone().drop_guard();
    // From now on the session must be used each second, or the database takes the lead away.
    let mut lost = pin!(leadership.lost());
    tokio::select! {
        () = &mut lost => return Ok(()),
        rebuilt = rebuild(status, &term) => rebuilt?,
    }
    tracing::info!(term = term.number, "leading");
    status.term.store(Some(Arc::clone(&term)));
    status.metrics.leading.set(1);
    let tasks = [
        during(status, &term, intake::run(Arc::clone(status), Arc::clone(&term))),
        during(status, &term, dispatch::run(Arc::clone(status), Arc::clone(&term))),
        during(status, &term, writers::run(Arc::clone(status), Arc::clone(&term), inbox)),
        during(status, &term, sessions::watch(Arc::clone(status), Arc::clone(&term))),
        during(status, &term, timers::run(Arc::clone(status), Arc::clone(&term))),
        during(status, &term, upkeep::run(Arc::clone(status), Arc::clone(&term))),
        during(status, &term, reconcile::run(Arc::clone(status), Arc::clone(&term))),
    ];
    tokio::select! {
        () = &mut lost => tracing::warn!(term = term.number, "leadership lost"),
        () = hand_over(status, &term) => tracing::info!(term = term.number, "the lead is given up"),
    }
    status.term.store(None);
    status.metrics.leading.set(0);
    drop(end);
    for task in tasks {
        // A task of a term that is over has nothing to say; its panic is logged by the runtime.
        drop(task.await);
    }
    // Only now is nobody left who sets them.
    status.metrics.queued.set(0);
    status.metrics.running.set(0);
    Ok(())
}

/// Runs a task until it ends or the term does, wherever it waits then. A transaction that is dropped is rolled back.
fn during(
    status: &Status,
    term: &Arc<Term>,
    task: impl Future<Output = ()> + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    let over = term.over.clone();
    status.shutdown.spawn(async move {
        tokio::select! {
            biased;
            () = over.cancelled() => {}
            () = task => {}
        }
    })
}

/// Returns when a leader that drains may go: at once if another process waits to lead. Else it starts nothing, but takes claims and
/// reports until nothing is held, so that executors which drain with it can finish; at the latest until `abort`.
async fn hand_over(status: &Arc<Status>, term: &Arc<Term>) {
    status.shutdown.drain.cancelled().await;
    let successor = async {
        while !matches!(has_standby(status).await, Ok(true)) {
            tokio::time::sleep(STAND_EVERY).await;
        }
    };
    tokio::select! {
        () = status.shutdown.abort.cancelled() => {}
        () = term.leases.idle() => {}
        () = successor => {}
    }
}

async fn has_standby(status: &Status) -> Result<bool, StorageError> {
    let mut conn = status.connection().await?;
    storage::leader::has_standby(&mut conn).await
}

/// Reads everything that is unfinished into memory: before the first release.
async fn rebuild(status: &Arc<Status>, term: &Arc<Term>) -> Result<(), StorageError> {
    let mut conn = status.connection().await?;
    upkeep::partitions(&mut conn, status.now()).await;
    for unfinished in storage::backlog::unfinished(&mut conn).await? {
        restore(term, &unfinished);
    }
    term.schedule.lock().restored();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_noted_while_the_ledger_is_asked_for_the_next_one_is_kept() {
        let at = |second: i64| DateTime::from_timestamp(1_790_000_000 + second, 0).unwrap();
        let (term, _inbox) = Term::new(1);
        term.due(Some(at(1)));
        assert_eq!(term.passed(at(0)), None);
        assert_eq!(term.passed(at(2)), Some(at(1)));

        term.due(Some(at(5)));
        let answer = Some(at(9));
        term.due(answer);

        assert_eq!(term.deadline(), Some(at(5)));
        assert_eq!(term.passed(at(2)), None);
    }
}

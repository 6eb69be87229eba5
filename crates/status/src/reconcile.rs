//! The ledger's word on single executions: whoever gets an answer that only makes sense if an earlier one was lost asks here. A
//! commit whose answer was lost is simply repeated; what the leader keeps in memory follows the ledger.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use domain::{ExecutionId, ExecutorId, State};
use parking_lot::Mutex;
use storage::{StorageError, backlog::Unfinished};
use tokio::sync::Notify;

use crate::{
    leader::Term,
    scheduler::{Job, Place},
    service::Status,
};

/// How many executions are looked up at once.
const BATCH: usize = 500;
/// How many may be in doubt; beyond that the minute check finds them.
const AT_MOST: usize = 100_000;
/// How long a failed look-up waits.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How often a look-up is repeated because the execution moved meanwhile.
const LOOKS: usize = 5;

/// Executions of which the memory may be wrong.
#[derive(Default)]
pub(crate) struct Doubts {
    ids: Mutex<BTreeSet<ExecutionId>>,
    news: Notify,
}

impl Doubts {
    /// The ledger will be asked about this execution, soon.
    pub(crate) fn doubt(&self, id: ExecutionId) {
        let mut ids = self.ids.lock();
        if ids.len() < AT_MOST {
            ids.insert(id);
        }
        self.news.notify_one();
    }

    fn take(&self) -> Vec<ExecutionId> {
        let mut ids = self.ids.lock();
        let taken: Vec<ExecutionId> = ids.iter().take(BATCH).copied().collect();
        for id in &taken {
            ids.remove(id);
        }
        if !ids.is_empty() {
            self.news.notify_one();
        }
        taken
    }
}

/// Settles doubts until the term is over.
pub(crate) async fn run(status: Arc<Status>, term: Arc<Term>) {
    loop {
        term.doubts.news.notified().await;
        let ids = term.doubts.take();
        if let Err(error) = reconcile(&status, &term, &ids).await {
            tracing::warn!(error = %service::chain(&error), "doubts wait");
            ids.into_iter().for_each(|id| term.doubts.doubt(id));
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// What the memory says about an execution.
type Belief = (Option<Place>, Option<(i32, ExecutorId)>);

fn belief(term: &Term, id: ExecutionId) -> Belief {
    (term.schedule.lock().place(id), term.leases.holder(id))
}

/// Sets queue, leases, wake-ups and deadlines of these executions to what the ledger says.
///
/// What moves while the ledger is asked is looked up again: an answer from before must not undo what was noted after.
pub(crate) async fn reconcile(status: &Status, term: &Term, ids: &[ExecutionId]) -> Result<(), StorageError> {
    let mut open = ids.to_vec();
    for _ in 0..LOOKS {
        if open.is_empty() {
            break;
        }
        let before: Vec<(ExecutionId, Belief)> = open.drain(..).map(|id| (id, belief(term, id))).collect();
        let asked: Vec<ExecutionId> = before.iter().map(|(id, _)| *id).collect();
        let mut conn = status.connection().await?;
        let rows = storage::backlog::some(&mut conn, &asked).await?;
        drop(conn);
        let rows: HashMap<ExecutionId, Unfinished> = rows.into_iter().map(|row| (row.execution_id, row)).collect();
        for (id, believed) in before {
            if belief(term, id) == believed {
                believe(term, id, rows.get(&id), &believed);
            } else {
                open.push(id);
            }
        }
    }
    term.released.notify_one();
    Ok(())
}

/// Puts one execution where the ledger has it, unless it is there.
pub(crate) fn believe(term: &Term, id: ExecutionId, row: Option<&Unfinished>, (place, hold): &Belief) {
    let fits = match row.map(|row| (row.state, row)) {
        None => place.is_none() && hold.is_none(),
        Some((State::Queued, row)) => {
            hold.is_none()
                && match place {
                    Some(Place::Later(at)) => row.eligible_at == Some(*at),
                    Some(Place::Running) | None => false,
                    Some(_) => true,
                }
        }
        Some((State::Waiting, _)) => false,
        Some((_, row)) => {
            *place == Some(Place::Running) && *hold == row.executor_id.map(|executor| (row.epoch, executor))
        }
    };
    if !fits {
        term.schedule.lock().remove(id);
        if let Some((epoch, _)) = hold {
            term.leases.release(id, *epoch);
        }
    }
    match row {
        Some(row) if !fits => restore(term, row),
        Some(row) => {
            term.due(row.due_at);
            if row.state == State::Cancelling {
                term.leases.cancelling(id);
            }
        }
        None => term.ended(id),
    }
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
    term.due(unfinished.due_at);
    if unfinished.eligible_at.is_some() {
        term.sooner.notify_one();
    }
}

/// What the queue has to know of an execution of the ledger.
fn job_of(unfinished: &Unfinished) -> Job {
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

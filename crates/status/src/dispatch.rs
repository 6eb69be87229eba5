//! Release: the leader offers a window of the queue to executors. Messages are hints; the memory of a release is the leader's.

use std::{sync::Arc, time::Duration};

use broker::{Message, Queue};
use domain::ExecutionId;
use protocol::{Envelope, dispatch::Dispatch};

use crate::{leader::Term, service::Status};

/// Executions per message: few enough that several executors share a burst.
const PER_MESSAGE: usize = 8;
/// How often unclaimed releases are looked for, while there are any.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Releases, until it is dropped with its term.
pub(crate) async fn run(status: Arc<Status>, term: Arc<Term>) {
    loop {
        let released = {
            let capacity = term.leases.capacity();
            let mut schedule = term.schedule.lock();
            schedule.set_slots(capacity.slots, capacity.elsewhere);
            let now = status.now();
            let (free, room) = (schedule.free(), schedule.room());
            let mut ids = schedule.overdue(free, now);
            // A leader that hands over starts nothing any more.
            if !status.shutdown.drain.is_cancelled() {
                ids.extend(schedule.release(room, now));
            }
            status.metrics.queued.set(i64::try_from(schedule.queued()).unwrap_or(i64::MAX));
            status.metrics.running.set(i64::try_from(schedule.running()).unwrap_or(i64::MAX));
            ids
        };
        status.failpoint.reach("release.before_publish");
        if !released.is_empty() {
            tracing::info_span!("release", otel.kind = "producer", executions = released.len())
                .in_scope(|| released.chunks(PER_MESSAGE).for_each(|ids| publish(&status, term.number, ids)));
            status.failpoint.reach("release.after_publish");
        }
        tokio::select! {
            () = term.released.notified() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

fn publish(status: &Status, term: i64, ids: &[ExecutionId]) {
    match Envelope::new(Dispatch { term, executions: ids.to_vec() }, crate::trace::current()).to_bytes() {
        Ok(bytes) => status.broker.hint(Queue::Dispatch, Message::transient(bytes)),
        Err(error) => tracing::error!(%error, "a dispatch cannot be written"),
    }
}

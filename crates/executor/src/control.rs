//! Listens to the leader's orders. Losing one is harmless: the next renewal or report brings it too.

use std::sync::Arc;

use broker::Heard;
use protocol::{
    Envelope,
    control::{Control, TOPIC},
};

use crate::service::Executor;

/// How many orders may wait.
const CAPACITY: usize = 1_024;

/// Obeys orders until the process has nothing left to hold.
pub(crate) async fn run(executor: Arc<Executor>) {
    let mut listener = executor.broker.listen(&[TOPIC.to_owned()], CAPACITY);
    loop {
        let heard = tokio::select! {
            heard = listener.next() => heard,
            () = executor.lease_end.cancelled() => return,
        };
        match heard {
            Some(Heard::Announcement(announcement)) => match Envelope::<Control>::from_bytes(&announcement.body) {
                Ok(envelope) => obey(&executor, envelope.body),
                Err(error) => tracing::warn!(%error, "an order cannot be read"),
            },
            // What was missed comes with the next renewal.
            Some(Heard::Gap) => {}
            None => return,
        }
    }
}

fn obey(executor: &Executor, order: Control) {
    match order {
        Control::Stop { executions } => {
            let now = executor.clock.now();
            for (id, epoch) in executions {
                executor.runs.stop(id, epoch, now);
            }
        }
        Control::Drain { executor_id } if executor_id == executor.id => {
            tracing::info!("an operator asked this executor to drain");
            executor.drain.cancel();
        }
        Control::Drain { .. } => {}
    }
}

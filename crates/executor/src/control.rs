//! Listens to the leader's orders. Losing one is harmless: the next renewal or report brings it too.

use std::sync::Arc;

use broker::{Heard, ReplyTo};
use protocol::{
    Envelope, TraceContext,
    control::{Control, ModelsFound, TOPIC},
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
                Ok(order) => obey(&executor, order),
                Err(error) => tracing::warn!(%error, "an order cannot be read"),
            },
            // What was missed comes with the next renewal.
            Some(Heard::Gap) => {}
            None => return,
        }
    }
}

fn obey(executor: &Arc<Executor>, order: Envelope<Control>) {
    match order.body {
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
        Control::FindModels { models, reply_to } => {
            let (executor, reply_to) = (Arc::clone(executor), ReplyTo::from(reply_to));
            let trace = order.trace;
            executor.shutdown.clone().spawn(async move { find(&executor, models, &reply_to, trace).await });
        }
    }
}

/// Answers which of the models the executor's providers have.
async fn find(executor: &Executor, models: Vec<String>, reply_to: &ReplyTo, asker: Option<TraceContext>) {
    let models = executor.models.availability(models).await;
    match Envelope::new(ModelsFound { executor_id: executor.id, models }, asker).to_bytes() {
        Ok(bytes) => executor.broker.reply(reply_to, bytes.into()),
        Err(error) => tracing::error!(%error, "an answer cannot be written"),
    }
}

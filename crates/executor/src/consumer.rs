//! Takes dispatch hints: a slot first, then a message, then the claim.

use std::{sync::Arc, time::Duration};

use broker::{Consumer, Delivery, Message, Queue};
use domain::ExecutionId;
use protocol::{Envelope, TraceContext, dispatch::Dispatch};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};

use crate::{
    claims::{Offer, Wish},
    service::Executor,
};

/// Unsettled deliveries at most: they are settled when their claims are.
const PREFETCH: u16 = 32;
/// Deliveries that arrived are given back when there is no slot for them after this long.
const GIVE_BACK_AFTER: Duration = Duration::from_millis(50);

/// Consumes until the executor drains; while the lease has run out, nothing is taken.
pub(crate) async fn run(executor: Arc<Executor>, offers: mpsc::Sender<Offer>) {
    let drain = executor.drain.clone();
    tokio::select! {
        () = drain.cancelled() => {}
        () = consume(&executor, &offers) => {}
    }
}

async fn consume(executor: &Arc<Executor>, offers: &mpsc::Sender<Offer>) {
    let mut consumer: Option<Consumer> = None;
    loop {
        if !executor.lease.is_valid() {
            consumer = None;
            executor.lease.valid().await;
        }
        let Some(slot) = next_slot(executor, &mut consumer).await else { return };
        let taking = consumer.get_or_insert_with(|| executor.broker.consume(Queue::Dispatch, PREFETCH));
        let delivery = tokio::select! {
            delivery = taking.next() => delivery,
            () = executor.lease.over() => continue,
        };
        let Some(delivery) = delivery else { return };
        let Some(offer) = accept(executor, delivery, slot) else { continue };
        if offers.send(offer).await.is_err() {
            return;
        }
    }
}

/// A slot. What was delivered meanwhile is soon given back to executors that have one.
async fn next_slot(executor: &Executor, consumer: &mut Option<Consumer>) -> Option<OwnedSemaphorePermit> {
    let acquired = timeout(GIVE_BACK_AFTER, Arc::clone(&executor.slots).acquire_owned()).await;
    if let Ok(slot) = acquired {
        return slot.ok();
    }
    *consumer = None;
    Arc::clone(&executor.slots).acquire_owned().await.ok()
}

/// As many wishes as there are slots; the rest is passed on at once.
fn accept(executor: &Executor, delivery: Delivery, first: OwnedSemaphorePermit) -> Option<Offer> {
    let Envelope { trace, body: dispatch, .. } = match Envelope::<Dispatch>::from_bytes(&delivery.body) {
        Ok(envelope) => envelope,
        Err(error) => {
            // A hint: the leader sends another one in two seconds.
            tracing::warn!(%error, "a dispatch cannot be read");
            delivery.ack();
            return None;
        }
    };
    let mut slot = Some(first);
    let (mut wishes, mut rest): (Vec<Wish>, Vec<ExecutionId>) = (Vec::new(), Vec::new());
    for id in dispatch.executions {
        let slot = slot.take().or_else(|| Arc::clone(&executor.slots).try_acquire_owned().ok());
        match slot {
            Some(free) => match executor.runs.wish(id) {
                Some(halt) => wishes.push(Wish { id, halt, slot: free }),
                // Held here already: the hint came twice.
                None => drop(free),
            },
            None => rest.push(id),
        }
    }
    pass_on(executor, Dispatch { term: dispatch.term, executions: rest }, trace.as_ref());
    if wishes.is_empty() {
        delivery.ack();
        return None;
    }
    Some(Offer { wishes, delivery, trace })
}

/// The rest is still what the leader released: it keeps the leader's context.
fn pass_on(executor: &Executor, rest: Dispatch, released: Option<&TraceContext>) {
    if rest.executions.is_empty() {
        return;
    }
    executor.metrics.given_back.inc_by(rest.executions.len() as u64);
    match Envelope::new(rest, released.cloned()).to_bytes() {
        Ok(bytes) => executor.broker.hint(Queue::Dispatch, Message::transient(bytes)),
        Err(error) => tracing::error!(%error, "a dispatch cannot be written"),
    }
}

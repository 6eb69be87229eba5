//! Claims: one request at a time carries all wishes that gathered meanwhile.

use std::{collections::HashMap, sync::Arc, time::Duration};

use broker::Delivery;
use domain::{ClaimId, ExecutionId};
use protocol::{
    TraceContext,
    claim::{CLAIMS_PATH, Claim, ClaimRequest, ClaimResponse, Grant, LEASE_MS},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep},
};
use tracing::Instrument as _;

use crate::{attempt, halt::Halt, service::Executor};

/// How many executions one request asks for at most.
const MOST: usize = 256;
/// How long one request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A request without an answer is repeated after this long.
const REPEAT_AFTER: Duration = Duration::from_millis(50);
/// A claim whose outcome is unknown for so long is certainly not ours: the leader gives back what no renewal lists, and
/// nothing outlives a lease.
const GIVE_UP_AFTER: Duration = Duration::from_millis(LEASE_MS + 2_000);

/// One execution that this executor has a slot for.
pub(crate) struct Wish {
    pub(crate) id: ExecutionId,
    pub(crate) halt: Arc<Halt>,
    pub(crate) slot: OwnedSemaphorePermit,
}

/// The wishes of one delivery, which is settled with their claims.
pub(crate) struct Offer {
    pub(crate) wishes: Vec<Wish>,
    pub(crate) delivery: Delivery,
    /// The release that offered them.
    pub(crate) trace: Option<TraceContext>,
}

/// Claims until the consumer ends.
pub(crate) async fn run(executor: Arc<Executor>, mut offers: mpsc::Receiver<Offer>) {
    let mut kept = None;
    loop {
        let first = match kept.take() {
            Some(offer) => offer,
            None => match offers.recv().await {
                Some(offer) => offer,
                None => return,
            },
        };
        let mut batch = vec![first];
        let mut count: usize = batch.iter().map(|offer| offer.wishes.len()).sum();
        while let Ok(offer) = offers.try_recv() {
            if count + offer.wishes.len() > MOST {
                kept = Some(offer);
                break;
            }
            count += offer.wishes.len();
            batch.push(offer);
        }
        let span = tracing::info_span!("claim", executions = count);
        service::trace::handles(&span, batch.len(), batch.iter().filter_map(|offer| offer.trace.as_ref()).map(sent));
        claim(&executor, batch).instrument(span).await;
    }
}

fn sent(by: &TraceContext) -> service::TraceContext {
    service::TraceContext { traceparent: by.traceparent.clone(), tracestate: by.tracestate.clone() }
}

async fn claim(executor: &Arc<Executor>, batch: Vec<Offer>) {
    let (wishes, deliveries): (Vec<_>, Vec<_>) = batch.into_iter().map(|offer| (offer.wishes, offer.delivery)).unzip();
    let mut wishes: HashMap<ExecutionId, Wish> = wishes.into_iter().flatten().map(|wish| (wish.id, wish)).collect();
    let claims = wishes.keys().map(|id| Claim { execution_id: *id, claim_id: ClaimId::generate() }).collect();
    let answer = ask(executor, &ClaimRequest { executor_id: executor.id, claims }).await;
    if let Some(answer) = answer {
        executor.metrics.claims.inc_by(answer.grants.len() as u64);
        executor.metrics.claims_refused.inc_by(answer.refused.len() as u64);
        for grant in answer.grants {
            if let Some(wish) = wishes.remove(&grant.execution_id) {
                begin(executor, grant, wish);
            }
        }
        deliveries.into_iter().for_each(Delivery::ack);
    }
    // Refused, or of unknown outcome: forget it. Unsettled deliveries are given back when they are dropped.
    for id in wishes.keys() {
        executor.runs.forget(*id);
    }
}

/// Repeats the very same claims until their outcome is known, or they are certainly not ours.
async fn ask(executor: &Executor, request: &ClaimRequest) -> Option<ClaimResponse> {
    let began = Instant::now();
    loop {
        if executor.drain.is_cancelled() {
            // What was granted unheard is given back: no renewal lists it.
            return None;
        }
        match executor.claims.post_json(CLAIMS_PATH, request, ANSWER_WITHIN).await {
            Ok(answer) => return Some(answer),
            Err(error) if !error.is_retryable() || began.elapsed() > GIVE_UP_AFTER => {
                tracing::warn!(error = %service::chain(&error), "a claim is given up");
                return None;
            }
            Err(error) => tracing::debug!(error = %service::chain(&error), "a claim is repeated"),
        }
        sleep(REPEAT_AFTER).await;
    }
}

fn begin(executor: &Arc<Executor>, grant: Grant, wish: Wish) {
    let line = executor.outbox.open(grant.execution_id, grant.epoch, grant.last_sequence);
    executor.runs.granted(Arc::clone(&line));
    executor.shutdown.spawn(attempt::hold(Arc::clone(executor), grant, line, wish.halt, wish.slot));
}

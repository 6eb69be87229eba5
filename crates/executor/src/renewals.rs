//! Renews the lease each second, on a connection of its own, and obeys what the leader says about each hold.

use std::{sync::Arc, time::Duration};

use protocol::claim::{RENEW_EVERY_MS, RENEWALS_PATH, Renewal, RenewalResponse};
use tokio::time::{Instant, sleep_until};
use tracing::Instrument as _;

use crate::service::Executor;

/// How long one renewal may take: less than its period, so that a lost one is repeated well within the lease.
const ANSWER_WITHIN: Duration = Duration::from_millis(900);
/// A renewal without an answer is repeated after this long.
const REPEAT_AFTER: Duration = Duration::from_millis(100);
/// How long the goodbye may take.
const GOODBYE_WITHIN: Duration = Duration::from_millis(500);

/// Renews until the process has nothing left to hold, then says goodbye.
pub(crate) async fn run(executor: Arc<Executor>) {
    let every = Duration::from_millis(RENEW_EVERY_MS);
    let mut failing = false;
    loop {
        let sent = Instant::now();
        let next = match renew(&executor, sent).instrument(tracing::info_span!("renew")).await {
            Ok(()) => {
                failing = false;
                sent + every
            }
            Err(error) => {
                executor.metrics.renewals_failed.inc();
                if !failing {
                    tracing::warn!(error = %service::chain(&error), "a renewal has no answer; it is repeated");
                }
                failing = true;
                Instant::now() + REPEAT_AFTER
            }
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = executor.lease_end.cancelled() => break,
        }
    }
    let goodbye = Renewal { goodbye: true, ..renewal(&executor) };
    let goodbye = executor.renewals.post_json(RENEWALS_PATH, &goodbye, GOODBYE_WITHIN);
    let said: Result<RenewalResponse, _> = goodbye.instrument(tracing::info_span!("goodbye")).await;
    if let Err(error) = said {
        tracing::info!(error = %service::chain(&error), "the goodbye was not heard; the lease will run out");
    }
}

async fn renew(executor: &Executor, sent: Instant) -> Result<(), service::InternalError> {
    let renewal = renewal(executor);
    let answer: RenewalResponse = executor.renewals.post_json(RENEWALS_PATH, &renewal, ANSWER_WITHIN).await?;
    executor.lease.renewed(sent);
    let now = executor.clock.now();
    for id in &answer.cancelling {
        // The order is for the attempt that was listed, not for a later one.
        if let Some(held) = renewal.held.iter().find(|held| held.execution_id == *id) {
            executor.runs.stop(*id, held.epoch, now);
        }
    }
    for held in answer.lost {
        tracing::warn!(execution.id = %held.execution_id, epoch = held.epoch, "an attempt is lost");
        executor.runs.lose(held);
    }
    if answer.drain && !executor.drain.is_cancelled() {
        tracing::info!("an operator asked this executor to drain");
        executor.drain.cancel();
    }
    Ok(())
}

fn renewal(executor: &Executor) -> Renewal {
    Renewal {
        executor_id: executor.id,
        name: executor.config.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        slots: executor.config.slots,
        draining: executor.drain.is_cancelled(),
        held: executor.runs.held(),
        goodbye: false,
    }
}

//! How the process ends: take nothing new; in the first half of the grace let runs finish; in the second give each back
//! at its next unit boundary; at `abort`, which comes with the end of the grace, at once. The lease is held until the last
//! report is stored, then given up with a goodbye.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use crate::service::Executor;

/// After `abort`, the last reports may take this long; less than the process's own patience.
const LAST_REPORTS_WITHIN: Duration = Duration::from_secs(3);

/// How long the usage rows of fenced attempts may take then.
const LAST_USAGE_WITHIN: Duration = Duration::from_secs(1);

/// Watches the tokens of the process and passes their meaning on.
pub(crate) async fn run(executor: Arc<Executor>) {
    tokio::select! {
        () = executor.shutdown.drain.cancelled() => executor.drain.cancel(),
        () = executor.drain.cancelled() => {}
    }
    tracing::info!(runs = executor.runs.len(), "draining");
    let boundary = executor.boundary.clone();
    let finishing = executor.config.drain_grace / 2;
    let patience = async {
        sleep(finishing).await;
        boundary.cancel();
        std::future::pending::<()>().await;
    };
    // Drained by an operator, the process stays, idle, until it is told to end.
    let all_over = async {
        executor.shutdown.drain.cancelled().await;
        executor.runs.none().await;
    };
    tokio::select! {
        () = all_over => {}
        () = patience => {}
        () = executor.shutdown.abort.cancelled() => {
            boundary.cancel();
            executor.runs.give_back_all();
            if timeout(LAST_REPORTS_WITHIN, executor.runs.none()).await.is_err() {
                tracing::warn!(runs = executor.runs.len(), "the leader did not take everything back in time");
            }
        }
    }
    // Usage rows of fenced attempts may still be under way.
    let _ = timeout(LAST_USAGE_WITHIN, async {
        while !executor.outbox.is_idle() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    executor.lease_end.cancel();
    executor.reports_end.cancel();
}

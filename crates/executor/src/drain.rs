//! How the process ends: take nothing new; let runs finish; give back the others at their next unit boundary; at `abort`
//! at once. The lease is held until the last report is stored, then given up with a goodbye.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use crate::service::Executor;

/// After `abort`, the last reports may take this long; less than the process's own patience.
const LAST_REPORTS_WITHIN: Duration = Duration::from_secs(3);

/// Watches the tokens of the process and passes their meaning on.
pub(crate) async fn run(executor: Arc<Executor>) {
    tokio::select! {
        () = executor.shutdown.drain.cancelled() => executor.drain.cancel(),
        () = executor.drain.cancelled() => {}
    }
    tracing::info!(runs = executor.runs.len(), "draining");
    let boundary = executor.boundary.clone();
    let grace = executor.config.drain_grace;
    let patience = async {
        sleep(grace).await;
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
    let _ = timeout(LAST_REPORTS_WITHIN, async {
        while !executor.outbox.is_silent() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    executor.lease_end.cancel();
    executor.reports_end.cancel();
}

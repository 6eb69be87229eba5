//! Keeps one connection open to the leader. If this process dies, its kernel closes it, and the leader knows at once.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};
use tracing::Instrument as _;

use crate::service::Executor;

/// The leader writes several times in this time; silence means that the connection is dead.
const BEAT_WITHIN: Duration = Duration::from_secs(2);
/// How long the head of the answer may take.
const HEAD_WITHIN: Duration = Duration::from_secs(1);
/// The first wait before connecting again: the leader fences an executor that is gone for 400 ms.
const RETRY_FIRST: Duration = Duration::from_millis(10);
/// The longest wait before connecting again.
const RETRY_AT_MOST: Duration = Duration::from_millis(250);

/// Keeps the session open until the lease is given up.
pub(crate) async fn run(executor: Arc<Executor>) {
    let path = format!("/internal/v1/session?executor={}", executor.id);
    let mut wait = RETRY_FIRST;
    loop {
        tokio::select! {
            opened = hold(&executor, &path) => wait = if opened { RETRY_FIRST } else { (wait * 2).min(RETRY_AT_MOST) },
            () = executor.lease_end.cancelled() => return,
        }
        tokio::select! {
            () = sleep(wait) => {}
            () = executor.lease_end.cancelled() => return,
        }
    }
}

/// Opens a session and returns when it has ended; `false` when it could not be opened.
async fn hold(executor: &Executor, path: &str) -> bool {
    let opened = executor.renewals.open(path, HEAD_WITHIN).instrument(tracing::info_span!("session"));
    let mut response = match opened.await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(error = %service::chain(&error), "no session with the leader");
            return false;
        }
    };
    while let Ok(Ok(Some(_beat))) = timeout(BEAT_WITHIN, response.chunk()).await {}
    tracing::debug!("the session with the leader ended");
    true
}

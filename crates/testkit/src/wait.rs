//! Waiting for a state, with a deadline: the only way tests wait.

use std::{fmt::Debug, time::Duration};
use tokio::time::{Instant, sleep, timeout_at};

/// Between two looks.
const POLL: Duration = Duration::from_millis(10);

/// Asks `probe` again and again until it is `Ok`, and returns what it found.
///
/// # Panics
/// When the deadline passes: with `what` and the last state that was seen.
pub async fn until<T, S: Debug>(deadline: Duration, what: &str, mut probe: impl AsyncFnMut() -> Result<T, S>) -> T {
    let end = Instant::now() + deadline;
    let mut last = None;
    while Instant::now() < end {
        match timeout_at(end, probe()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(state)) => last = Some(state),
            Err(_) => break,
        }
        sleep(POLL).await;
    }
    panic!("waited {deadline:?} for {what}; last seen: {last:?}");
}

/// As [`until`], for a plain condition.
///
/// # Panics
/// When the deadline passes.
pub async fn until_true(deadline: Duration, what: &str, mut probe: impl AsyncFnMut() -> bool) {
    until(deadline, what, async || if probe().await { Ok(()) } else { Err(()) }).await;
}

//! How a process ends: first it drains, then it aborts, and nothing runs outside its tasks.

use std::{future::Future, io, time::Duration};
use tokio::{signal::unix, task::JoinHandle, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// After `abort`, tasks get this long to give back what they hold.
const ABORT_GRACE: Duration = Duration::from_secs(5);

/// The two stages of an orderly end, and the tasks that take part in it. One per process (in the embedded form: one per
/// role), passed down, cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled first: take nothing new, finish what is held.
    pub drain: CancellationToken,
    /// Cancelled second: give back what is held, at once.
    pub abort: CancellationToken,
    /// Every task of the process.
    pub tasks: TaskTracker,
}

/// How [`Shutdown::wait`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All tasks finished while draining.
    Drained,
    /// All tasks finished, some only after `abort`.
    Aborted,
    /// Some tasks did not even react to `abort` within five seconds.
    Abandoned,
}

impl Shutdown {
    /// A new pair of tokens without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a future as one of the process's tasks. The future watches `drain` and `abort` itself.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(future)
    }

    /// Starts draining at the first SIGTERM or SIGINT; aborts at the second, or when `grace` has passed since draining
    /// began (for whatever reason).
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals(&self, grace: Duration) -> io::Result<()> {
        let mut terminate = unix::signal(unix::SignalKind::terminate())?;
        let mut interrupt = unix::signal(unix::SignalKind::interrupt())?;
        let this = self.clone();
        // Not one of `tasks`: it waits for signals for ever, and the end of the process must not wait for it.
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
                _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
                () = this.drain.cancelled() => {}
            }
            this.drain.cancel();
            tokio::select! {
                _ = terminate.recv() => tracing::info!("second SIGTERM: aborting"),
                _ = interrupt.recv() => tracing::info!("second SIGINT: aborting"),
                () = time::sleep(grace) => tracing::info!("the drain grace has passed: aborting"),
                () = this.abort.cancelled() => {}
            }
            this.abort.cancel();
        });
        Ok(())
    }

    /// Waits until draining begins, then until all tasks have finished: for at most `grace`, then once more after
    /// `abort`.
    pub async fn wait(&self, grace: Duration) -> Ended {
        self.wait_for(grace, ABORT_GRACE).await
    }

    async fn wait_for(&self, grace: Duration, abort_grace: Duration) -> Ended {
        self.drain.cancelled().await;
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => return Ended::Drained,
            () = time::sleep(grace) => self.abort.cancel(),
            () = self.abort.cancelled() => {}
        }
        match time::timeout(abort_grace, self.tasks.wait()).await {
            Ok(()) => Ended::Aborted,
            Err(_) => Ended::Abandoned,
        }
    }

    /// Drains and waits, as [`wait`](Self::wait) does: for tests and for parts of a process.
    pub async fn stop(&self, grace: Duration) -> Ended {
        self.drain.cancel();
        self.wait(grace).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_heeds_drain_is_not_aborted() {
        let shutdown = Shutdown::new();
        let drain = shutdown.drain.clone();
        shutdown.spawn(async move { drain.cancelled().await });

        let ended = shutdown.stop(Duration::from_secs(10)).await;

        assert_eq!(ended, Ended::Drained);
        assert!(!shutdown.abort.is_cancelled());
    }

    #[tokio::test]
    async fn a_task_that_outlives_the_grace_is_aborted() {
        let shutdown = Shutdown::new();
        let abort = shutdown.abort.clone();
        shutdown.spawn(async move { abort.cancelled().await });

        assert_eq!(shutdown.stop(Duration::ZERO).await, Ended::Aborted);
    }

    #[tokio::test]
    async fn a_task_that_heeds_nothing_is_abandoned() {
        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending::<()>());

        shutdown.drain.cancel();
        let ended = shutdown.wait_for(Duration::ZERO, Duration::from_millis(20)).await;

        assert_eq!(ended, Ended::Abandoned);
    }
}

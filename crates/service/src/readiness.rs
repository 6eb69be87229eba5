//! What must work for a process to be sent work.

use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use std::{fmt, sync::Arc, time::Duration};
use tokio::time::timeout;

type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// A list of named checks, built once at start.
#[derive(Clone, Default)]
pub struct Readiness {
    checks: Vec<(&'static str, Check)>,
}

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failing {
    /// The check's name.
    pub name: &'static str,
    /// For an operator.
    pub reason: String,
}

impl Readiness {
    /// No checks: always ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check. It must be safe to drop half-way: it is given up at the deadline.
    #[must_use]
    pub fn check<F, Fut>(mut self, name: &'static str, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.checks.push((name, Arc::new(move || check().boxed())));
        self
    }

    /// Runs all checks at once, each for at most `deadline`, and returns those that failed.
    pub async fn failing(&self, deadline: Duration) -> Vec<Failing> {
        let running = self.checks.iter().map(|(name, check)| async move {
            let reason = match timeout(deadline, check()).await {
                Ok(Ok(())) => return None,
                Ok(Err(reason)) => reason,
                Err(_) => format!("no answer within {} ms", deadline.as_millis()),
            };
            Some(Failing { name, reason })
        });
        futures::future::join_all(running).await.into_iter().flatten().collect()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.checks.iter().map(|(name, _)| name)).finish()
    }
}

//! Metrics: a registry that is passed down, never a static one.

use crate::process_metrics::ProcessCollector;
pub use prometheus::Registry;
use prometheus::{Encoder, TextEncoder};

/// The media type of the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// A registry that already has the metrics of the process: resident memory, CPU seconds, threads, start time.
#[must_use]
pub fn registry() -> Registry {
    let registry = Registry::new();
    match ProcessCollector::new() {
        Ok(collector) => register(&registry, collector),
        Err(error) => tracing::warn!(%error, "no process metrics"),
    }
    registry
}

/// Registers a metric. A name that is registered twice is a mistake in the code: it is logged, and the process goes on
/// without the second one.
pub fn register(registry: &Registry, metric: impl prometheus::core::Collector + 'static) {
    if let Err(error) = registry.register(Box::new(metric)) {
        tracing::error!(%error, "a metric is not registered");
    }
}

/// Registers a metric whose name and help texts are literals.
///
/// # Panics
/// When they are not valid: a mistake that the first test finds.
#[expect(clippy::expect_used, reason = "start-up invariant")]
pub fn made<M: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("a metric's name and help are valid");
    register(registry, metric.clone());
    metric
}

/// Everything in the registry, in the Prometheus text format.
#[must_use]
pub fn text(registry: &Registry) -> String {
    let mut buffer = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut buffer) {
        tracing::error!(%error, "the metrics cannot be written");
    }
    String::from_utf8(buffer).unwrap_or_default()
}

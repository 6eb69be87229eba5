//! What an executor counts. Names, units and meanings are here and nowhere else.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use service::metrics::made;

/// The metrics of one executor process. Counters start at 0; no ids are labels.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) slots: IntGauge,
    pub(crate) runs: IntGauge,
    pub(crate) attempts: IntCounter,
    pub(crate) finishes: IntCounterVec,
    pub(crate) open_calls: IntGauge,
    pub(crate) calls: IntCounterVec,
    pub(crate) input_tokens: IntCounter,
    pub(crate) output_tokens: IntCounter,
    pub(crate) claims: IntCounter,
    pub(crate) claims_refused: IntCounter,
    pub(crate) given_back: IntCounter,
    pub(crate) renewals_failed: IntCounter,
    pub(crate) report_size: Histogram,
    pub(crate) report_seconds: Histogram,
    pub(crate) reports_failed: IntCounter,
    pub(crate) outbox_bytes: IntGauge,
    pub(crate) store_failures: IntCounter,
}

/// How a model call can end, as the label says it.
pub(crate) const CALL_OUTCOMES: [&str; 3] = ["completed", "failed", "aborted"];
/// How an attempt can end, as the label says it.
pub(crate) const FINISHES: [&str; 6] = ["completed", "failed", "cancelled", "given_back", "parked", "lost"];

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| made(registry, IntGauge::new(name, help));
        let counter = |name: &str, help: &str| made(registry, IntCounter::new(name, help));
        let by = |name: &str, help: &str, label: &str, values: &[&str]| {
            let vector = made(registry, IntCounterVec::new(Opts::new(name, help), &[label]));
            for value in values {
                let _starts_at_zero = vector.with_label_values(&[*value]);
            }
            vector
        };
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            made(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
        };
        Self {
            slots: gauge("lekhika_executor_slots", "Executions this executor takes at once"),
            runs: gauge("lekhika_executor_runs", "Executions this executor holds"),
            attempts: counter("lekhika_executor_attempts_total", "Attempts begun"),
            finishes: by("lekhika_executor_finishes_total", "Attempts ended, by how", "finish", &FINISHES),
            open_calls: gauge("lekhika_executor_open_calls", "Model calls that are open"),
            calls: by("lekhika_executor_calls_total", "Model calls ended, by outcome", "outcome", &CALL_OUTCOMES),
            input_tokens: counter("lekhika_executor_input_tokens_total", "Tokens read by models"),
            output_tokens: counter("lekhika_executor_output_tokens_total", "Tokens written by models"),
            claims: counter("lekhika_executor_claims_total", "Claims granted"),
            claims_refused: counter("lekhika_executor_claims_refused_total", "Claims refused"),
            given_back: counter(
                "lekhika_executor_hints_given_back_total",
                "Offered executions passed on for lack of a slot",
            ),
            renewals_failed: counter("lekhika_executor_renewals_failed_total", "Renewals without an answer"),
            report_size: histogram(
                "lekhika_executor_report_batch_size",
                "Executions per report request",
                vec![1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1000.0],
            ),
            report_seconds: histogram(
                "lekhika_executor_report_seconds",
                "From sending a report to its acknowledgement",
                vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0],
            ),
            reports_failed: counter("lekhika_executor_reports_failed_total", "Report requests without an answer"),
            outbox_bytes: gauge("lekhika_executor_outbox_bytes", "Bytes that are not acknowledged"),
            store_failures: counter(
                "lekhika_executor_store_failures_total",
                "Files that the object store did not take",
            ),
        }
    }
}

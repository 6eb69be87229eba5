//! What status counts. Names, units and meanings are here and nowhere else.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};
use service::metrics::made;

/// The metrics of one status process. Counters start at 0; no ids are labels.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) leading: IntGauge,
    pub(crate) queued: IntGauge,
    pub(crate) running: IntGauge,
    pub(crate) submissions: IntCounter,
    pub(crate) rejected: IntCounter,
    pub(crate) redelivered: IntCounter,
    pub(crate) dead_letters: IntCounter,
    pub(crate) claims: IntCounter,
    pub(crate) claims_refused: IntCounter,
    pub(crate) reports: IntCounter,
    pub(crate) finished: IntCounter,
    pub(crate) fenced: IntCounter,
    pub(crate) repaired: IntCounter,
    pub(crate) live_events: IntCounter,
    pub(crate) intake_batch: Histogram,
    pub(crate) intake_seconds: Histogram,
    pub(crate) report_batch: Histogram,
    pub(crate) report_seconds: Histogram,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| made(registry, IntGauge::new(name, help));
        let counter = |name: &str, help: &str| made(registry, IntCounter::new(name, help));
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            made(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
        };
        let sizes = || vec![1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0];
        let seconds = || vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
        Self {
            leading: gauge("lekhika_status_leading", "1 while this process leads"),
            queued: gauge("lekhika_queue_depth", "Executions that wait in the leader's queue"),
            running: gauge("lekhika_running", "Executions that executors hold"),
            submissions: counter("lekhika_submissions_total", "Submissions taken into the ledger"),
            rejected: counter("lekhika_submissions_rejected_total", "Submissions taken in as failed"),
            redelivered: counter("lekhika_submissions_redelivered_total", "Submissions that came again"),
            dead_letters: counter("lekhika_dead_letters_total", "Messages that nobody could read"),
            claims: counter("lekhika_claims_granted_total", "Claims granted"),
            claims_refused: counter("lekhika_claims_refused_total", "Claims refused"),
            reports: counter("lekhika_reports_total", "Reports taken, one per execution and request"),
            finished: counter("lekhika_finished_total", "Executions that reached a terminal state"),
            fenced: counter("lekhika_fenced_total", "Attempts taken back from lost executors"),
            repaired: counter("lekhika_index_repairs_total", "Differences between queue and ledger found and repaired"),
            live_events: counter("lekhika_live_events_total", "Events published for viewers"),
            intake_batch: histogram("lekhika_intake_batch_size", "Submissions per intake transaction", sizes()),
            report_batch: histogram("lekhika_report_batch_size", "Reports per transaction", sizes()),
            intake_seconds: histogram("lekhika_intake_seconds", "Duration of intake transactions", seconds()),
            report_seconds: histogram("lekhika_report_seconds", "Duration of report transactions", seconds()),
        }
    }
}

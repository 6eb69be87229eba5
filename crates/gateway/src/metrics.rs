//! What a gateway counts. Names, units and meanings are here and nowhere else.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use service::metrics::made;

/// The metrics of one gateway process. Routes are templates; no ids are labels.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    pub(crate) subscribers: IntGauge,
    pub(crate) events: IntCounter,
    pub(crate) fetches: IntCounter,
    pub(crate) submissions: IntCounter,
    pub(crate) confirmed_only: IntCounter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str| made(registry, IntCounter::new(name, help));
        Self {
            requests: made(
                registry,
                IntCounterVec::new(Opts::new("lekhika_http_requests_total", "Requests answered"), &["route", "class"]),
            ),
            subscribers: made(registry, IntGauge::new("lekhika_event_streams", "Open event streams")),
            events: counter("lekhika_events_delivered_total", "Events written to streams"),
            fetches: counter("lekhika_event_fetches_total", "Look-ups of events that were missed"),
            submissions: counter("lekhika_submissions_published_total", "Submissions handed to the broker"),
            confirmed_only: counter(
                "lekhika_submissions_confirmed_only_total",
                "Submissions answered on the broker's confirm, because status did not reply in time",
            ),
        }
    }

    /// Counts an answer by route template and status class.
    pub(crate) fn answered(&self, route: &str, status: u16) {
        let class = match status / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.requests.with_label_values(&[route, class]).inc();
    }
}

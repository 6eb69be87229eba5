//! What providers' streams were forgiven, as metrics: the calls count it, a scrape reads it.

use std::sync::Arc;

use prometheus::{
    IntCounterVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use providers::openai::StreamCounters;

/// The counters of all providers.
pub(crate) struct Oddities {
    total: IntCounterVec,
    providers: Vec<(String, Arc<StreamCounters>)>,
}

impl Oddities {
    pub(crate) fn new(providers: Vec<(String, Arc<StreamCounters>)>) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(
            "lekhika_executor_provider_oddities_total",
            "What was forgiven in providers' answers: events that were no JSON, streams without their last blank line, totals that \
             are no sums",
        );
        Ok(Self { total: IntCounterVec::new(opts, &["provider", "kind"])?, providers })
    }
}

impl Collector for Oddities {
    fn desc(&self) -> Vec<&Desc> {
        self.total.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (provider, counters) in &self.providers {
            let kinds = [
                ("malformed_event", counters.malformed_events()),
                ("unterminated_event", counters.unterminated_events()),
                ("usage_total_mismatch", counters.usage_total_mismatches()),
            ];
            for (kind, count) in kinds {
                let counter = self.total.with_label_values(&[provider.as_str(), kind]);
                // Two scrapes at once may see each other's value: a counter must not go back.
                counter.inc_by(count.saturating_sub(counter.get()));
            }
        }
        self.total.collect()
    }
}

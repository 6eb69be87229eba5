//! Metrics of the process itself, read from `/proc` at each scrape; on other systems they are zero.

use prometheus::{
    Counter, Gauge, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use std::fs;

/// The kernel counts CPU time in hundredths of a second for every process on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Collects what `/proc/self` says.
pub(crate) struct ProcessCollector {
    resident: Gauge,
    threads: Gauge,
    cpu: Counter,
}

impl ProcessCollector {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(name, help);
        Ok(Self {
            resident: Gauge::with_opts(opts("process_resident_memory_bytes", "Resident memory."))?,
            threads: Gauge::with_opts(opts("process_threads", "Threads of the operating system."))?,
            cpu: Counter::with_opts(opts("process_cpu_seconds_total", "User and system CPU time."))?,
        })
    }

    fn refresh(&self) {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        self.resident.set(field(&status, "VmRSS:") * 1024.0);
        self.threads.set(field(&status, "Threads:"));
        let spent = cpu_seconds(&fs::read_to_string("/proc/self/stat").unwrap_or_default());
        // Two scrapes at once may see each other's value: a counter must not go back.
        self.cpu.inc_by((spent - self.cpu.get()).max(0.0));
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        [self.resident.desc(), self.threads.desc(), self.cpu.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        [self.resident.collect(), self.threads.collect(), self.cpu.collect()].concat()
    }
}

fn field(status: &str, name: &str) -> f64 {
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|v| v.parse().ok()).unwrap_or_default()
}

/// The 14th and 15th field; the second is the name in parentheses and may hold anything.
fn cpu_seconds(stat: &str) -> f64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|v| v.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 1 1 1";

        assert!((cpu_seconds(stat) - 3.0).abs() < 1e-9);
    }
}

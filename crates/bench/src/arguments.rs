//! What can be asked for, and how long each measurement takes.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

/// Measures Lekhika against the raw limits of this machine. Needs nothing but the two builds; starts a private platform.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub(crate) struct Arguments {
    /// About one minute instead of about four; noisier.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Keep the platform's data and logs here (otherwise in a temporary folder that is removed).
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Measure only this (may be repeated).
    #[arg(long, value_enum)]
    pub(crate) only: Vec<Subject>,
    /// Write the figures here, too.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// The command that starts a platform; ` --data-dir D ..` is added to it. Split at spaces: no path in it may have one.
    #[arg(long, env = "BENCH_STACK", default_value = "scripts/stack")]
    pub(crate) stack: String,
    /// How the measured binary was built; only printed.
    #[arg(long, env = "BENCH_PROFILE", default_value = "release")]
    pub(crate) profile: String,
}

/// The groups of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// What disk, Postgres, RabbitMQ and loopback HTTP can do by themselves.
    Raw,
    /// Resident memory of the services before any work.
    Memory,
    /// From a POST to the first provider call, and between steps, on an idle platform.
    Latency,
    /// Executions completed per second, and their CPU time.
    Completed,
    /// Submissions accepted per second while executors are paused.
    Accepted,
    /// The same operations with a short and a long queue.
    Queue,
    /// 2,000 executions streaming at once on one executor.
    Streaming,
}

/// Sizes and times of the scenarios.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Load-generating clients, each with one kept-alive connection.
    pub(crate) clients: usize,
    /// Per raw limit.
    pub(crate) raw: Duration,
    /// Sequential submissions to the idle platform.
    pub(crate) latency_samples: usize,
    /// Thrown away before each rate is measured.
    pub(crate) warm_up: Duration,
    /// Completed per second is measured over this time.
    pub(crate) completed: Duration,
    /// Accepted per second is measured over this time.
    pub(crate) accepted: Duration,
    /// The short queue.
    pub(crate) few: u64,
    /// The long queue.
    pub(crate) many: u64,
    /// Filling the long queue stops after this time, full or not.
    pub(crate) fill: Duration,
    /// Submit, ask for the position, stop: this often per queue length.
    pub(crate) cycles: usize,
    /// Release is measured over this time per queue length.
    pub(crate) release: Duration,
    /// Executions streaming at once.
    pub(crate) streams: u64,
    /// Tokens of each of them.
    pub(crate) tokens: u32,
    /// Clients that watch a stream.
    pub(crate) viewers: usize,
}

impl Arguments {
    /// Whether `subject` was asked for.
    pub(crate) fn wants(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&subject)
    }

    /// The sizes for this run.
    pub(crate) fn plan(&self) -> Plan {
        let seconds = |full: u64, quick: u64| Duration::from_secs(if self.quick { quick } else { full });
        Plan {
            clients: 32,
            raw: Duration::from_millis(if self.quick { 500 } else { 1_500 }),
            latency_samples: if self.quick { 60 } else { 200 },
            warm_up: seconds(3, 1),
            completed: seconds(60, 10),
            accepted: seconds(8, 3),
            few: 100,
            many: if self.quick { 10_000 } else { 100_000 },
            fill: seconds(45, 6),
            cycles: if self.quick { 60 } else { 200 },
            release: seconds(8, 3),
            streams: 2_000,
            tokens: if self.quick { 200 } else { 400 },
            viewers: 50,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_selection_everything_is_measured() {
        let all = Arguments::try_parse_from(["bench"]).unwrap();
        let some = Arguments::try_parse_from(["bench", "--only", "raw", "--only", "queue"]).unwrap();

        assert!(all.wants(Subject::Raw) && all.wants(Subject::Streaming));
        assert!(some.wants(Subject::Queue) && !some.wants(Subject::Streaming));
    }
}

//! Counts nodes, units, words and tokens of the whole execution, and notes when its last provider connection was closed.

use chrono::{DateTime, Utc};
use domain::flow::{CompiledFlow, Work};
use parking_lot::Mutex;
use protocol::{claim::Grant, report::Progress};

/// The counters of an attempt.
pub(super) struct Tally {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    progress: Progress,
    input: i64,
    output: i64,
    last_closed: Option<DateTime<Utc>>,
    /// Nodes that run, the latest last.
    running: Vec<String>,
}

impl Tally {
    /// The input node is no work: it counts nowhere. A loop counts one unit until its list is known.
    /// Tokens go on from those of earlier attempts; nodes and units are counted again as the graph passes them.
    pub(super) fn new(flow: &CompiledFlow, grant: &Grant) -> Self {
        let count = |matches: fn(&Work) -> bool| {
            u32::try_from(flow.nodes().iter().filter(|node| matches(&node.work)).count()).unwrap_or(u32::MAX)
        };
        let nodes_total = count(|work| !matches!(work, Work::Input));
        let units_total = count(|work| matches!(work, Work::Generate(_) | Work::Chapters { .. }));
        let progress = Progress { nodes_total, units_total, ..Progress::default() };
        let (input, output) = (grant.input_tokens, grant.output_tokens);
        Self { state: Mutex::new(State { progress, input, output, ..State::default() }) }
    }

    pub(super) fn progress(&self) -> Progress {
        let state = self.state.lock();
        Progress { current_node: state.running.last().cloned(), ..state.progress.clone() }
    }

    pub(super) fn node_began(&self, node: &str) {
        self.state.lock().running.push(node.to_owned());
    }

    pub(super) fn node_done(&self, node: &str) {
        let mut state = self.state.lock();
        state.progress.nodes_done += 1;
        state.running.retain(|running| running != node);
    }

    /// A loop's list is known.
    pub(super) fn units_known(&self, units: u32) {
        let progress = &mut self.state.lock().progress;
        progress.units_total = progress.units_total.saturating_add(units).saturating_sub(1);
    }

    pub(super) fn unit_done(&self, words: u64) {
        let progress = &mut self.state.lock().progress;
        progress.units_done += 1;
        progress.words += words;
    }

    /// A call is over and counted; returns input and output tokens of the execution so far.
    pub(super) fn called(&self, input: i64, output: i64, closed: DateTime<Utc>) -> (i64, i64) {
        let mut state = self.state.lock();
        state.input = state.input.saturating_add(input);
        state.output = state.output.saturating_add(output);
        state.last_closed = state.last_closed.max(Some(closed));
        (state.input, state.output)
    }

    pub(super) fn tokens(&self) -> i64 {
        let state = self.state.lock();
        state.input.saturating_add(state.output)
    }

    pub(super) fn last_closed(&self) -> Option<DateTime<Utc>> {
        self.state.lock().last_closed
    }
}

/// Words as the API counts them.
pub(super) fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

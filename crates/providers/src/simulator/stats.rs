//! What the simulator counted: its view is the proof of what a client did.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use parking_lot::Mutex;
use serde_json::{Value, json};

/// Calls per unit.
type Units = BTreeMap<String, Calls>;

/// Times kept per unit: tests look at the first few.
const MAX_TIMES: usize = 64;

/// What is known of the calls of one unit; times are milliseconds since 1970.
#[derive(Debug, Default)]
struct Calls {
    count: u64,
    arrived: Vec<u64>,
    closed: Vec<u64>,
}

impl Calls {
    fn stamp(times: &mut Vec<u64>) {
        if times.len() < MAX_TIMES {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            times.push(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        }
    }
}

/// A bounded count of calls by two keys; the oldest first key is forgotten.
#[derive(Debug, Default)]
struct Counts {
    limit: usize,
    by_key: HashMap<String, Units>,
    /// The `traceparent` of the first call of each key that had one.
    traces: HashMap<String, String>,
    order: VecDeque<String>,
}

impl Counts {
    fn count(&mut self, key: &str, unit: &str) -> u64 {
        let Some(calls) = self.of(key, unit) else { return 0 };
        calls.count += 1;
        calls.count
    }

    fn of(&mut self, key: &str, unit: &str) -> Option<&mut Calls> {
        if self.limit == 0 {
            return None;
        }
        if !self.by_key.contains_key(key) {
            if self.by_key.len() >= self.limit
                && let Some(oldest) = self.order.pop_front()
            {
                self.by_key.remove(&oldest);
                self.traces.remove(&oldest);
            }
            self.order.push_back(key.to_owned());
        }
        let units = self.by_key.entry(key.to_owned()).or_default();
        if !units.contains_key(unit) {
            units.insert(unit.to_owned(), Calls::default());
        }
        units.get_mut(unit)
    }

    fn clear(&mut self) {
        self.by_key.clear();
        self.traces.clear();
        self.order.clear();
    }
}

/// The counters of a simulator.
#[derive(Debug)]
pub(super) struct Stats {
    requests: AtomicU64,
    open: AtomicU64,
    closed_by_client: AtomicU64,
    executions: Option<Mutex<Counts>>,
    /// For the models that behave differently from call to call; independent of what is shown.
    scripted: Mutex<Counts>,
}

/// Executions and units the scripted models remember.
const MAX_SCRIPTED: usize = 50_000;

/// The parts of `exec_<id>/<node>/<unit>/<attempt>`: the execution and `node/unit`.
pub(super) fn parts_of(request_id: &str) -> (&str, &str) {
    let Some((execution, rest)) = request_id.split_once('/') else { return (request_id, "") };
    (execution, rest.rsplit_once('/').map_or(rest, |(unit, _attempt)| unit))
}

impl Stats {
    pub(super) fn new(tracked_executions: usize) -> Self {
        let counts = |limit| Mutex::new(Counts { limit, ..Counts::default() });
        Self {
            requests: AtomicU64::new(0),
            open: AtomicU64::new(0),
            closed_by_client: AtomicU64::new(0),
            executions: (tracked_executions > 0).then(|| counts(tracked_executions)),
            scripted: counts(MAX_SCRIPTED),
        }
    }

    /// Counts a call; its number, from 1.
    pub(super) fn called(&self, request_id: &str, traceparent: Option<&str>) -> u64 {
        if let Some(executions) = self.executions.as_ref().filter(|_| !request_id.is_empty()) {
            let (execution, unit) = parts_of(request_id);
            let mut executions = executions.lock();
            if let Some(traceparent) = traceparent.filter(|_| !executions.traces.contains_key(execution)) {
                executions.traces.insert(execution.to_owned(), traceparent.to_owned());
            }
            if let Some(calls) = executions.of(execution, unit) {
                calls.count += 1;
                Calls::stamp(&mut calls.arrived);
            }
        }
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn closed(&self, request_id: &str) {
        if let Some(executions) = self.executions.as_ref().filter(|_| !request_id.is_empty()) {
            let (execution, unit) = parts_of(request_id);
            if let Some(calls) = executions.lock().of(execution, unit) {
                Calls::stamp(&mut calls.closed);
            }
        }
        self.closed_by_client.fetch_add(1, Ordering::SeqCst);
    }

    /// How often a scripted model was asked under this key, this time included.
    pub(super) fn scripted(&self, key: &str, model: &str) -> u64 {
        self.scripted.lock().count(key, model)
    }

    pub(super) fn reset(&self) {
        self.requests.store(0, Ordering::Relaxed);
        self.closed_by_client.store(0, Ordering::Relaxed);
        if let Some(executions) = &self.executions {
            executions.lock().clear();
        }
        self.scripted.lock().clear();
    }

    /// `GET /stats`, of all executions or of one; of one with the times of its calls.
    pub(super) fn shown(&self, execution: Option<&str>) -> Value {
        let executions = self.executions.as_ref().map(Mutex::lock);
        let none = Units::new();
        let units = |id: &str| executions.as_ref().and_then(|counts| counts.by_key.get(id)).unwrap_or(&none);
        let (requests, open) = (self.requests.load(Ordering::Relaxed), self.open.load(Ordering::SeqCst));
        let closed = self.closed_by_client.load(Ordering::SeqCst);
        if let Some(id) = execution {
            let units = units(id);
            return json!({
                "requests": requests, "open": open, "closedByClient": closed,
                "byExecution": {id: counts(units)},
                "arrivedAt": of_each(units, |of| json!(of.arrived)),
                "closedAt": of_each(units, |of| json!(of.closed)),
                "traceparent": executions.as_ref().and_then(|counts| counts.traces.get(id)),
            });
        }
        let all = executions.iter().flat_map(|known| &known.by_key).map(|(id, units)| (id.clone(), counts(units)));
        let by_execution: Value = all.collect();
        json!({"requests": requests, "open": open, "closedByClient": closed, "byExecution": by_execution})
    }
}

fn counts(units: &Units) -> Value {
    of_each(units, |calls| json!(calls.count))
}

fn of_each(units: &Units, what: impl Fn(&Calls) -> Value) -> Value {
    units.iter().map(|(unit, calls)| (unit.clone(), what(calls))).collect()
}

/// A call that is being answered. Dropped before [`OpenCall::complete`], its client has closed it.
#[derive(Debug)]
pub(super) struct OpenCall {
    stats: Arc<Stats>,
    request_id: String,
    complete: bool,
}

impl OpenCall {
    pub(super) fn new(stats: Arc<Stats>, request_id: &str) -> Self {
        stats.open.fetch_add(1, Ordering::SeqCst);
        Self { stats, request_id: request_id.to_owned(), complete: false }
    }

    /// The simulator has said everything it will say.
    pub(super) const fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if !self.complete {
            self.stats.closed(&self.request_id);
        }
        self.stats.open.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_execution_and_unit() {
        let stats = Stats::new(2);
        for id in ["exec_a/write/0/1", "exec_a/write/0/2", "exec_a/write/1/1", "exec_b/plan/0/1"] {
            stats.called(id, None);
        }

        assert_eq!(
            stats.shown(None)["byExecution"],
            json!({"exec_a": {"write/0": 2, "write/1": 1}, "exec_b": {"plan/0": 1}})
        );
        assert_eq!(stats.shown(Some("exec_b"))["byExecution"], json!({"exec_b": {"plan/0": 1}}));
    }

    #[test]
    fn the_times_of_one_executions_calls_are_shown() {
        let stats = Arc::new(Stats::new(2));
        stats.called("exec_a/write/0/1", None);
        drop(OpenCall::new(Arc::clone(&stats), "exec_a/write/0/1"));

        let shown = stats.shown(Some("exec_a"));
        let (arrived, closed) = (&shown["arrivedAt"]["write/0"][0], &shown["closedAt"]["write/0"][0]);
        assert!(arrived.as_u64().unwrap() > 0 && closed.as_u64() >= arrived.as_u64(), "{shown}");
        assert_eq!(stats.shown(None).get("arrivedAt"), None);
    }

    #[test]
    fn the_oldest_execution_is_forgotten() {
        let stats = Stats::new(2);
        for id in ["exec_a/n/0/1", "exec_b/n/0/1", "exec_c/n/0/1"] {
            stats.called(id, None);
        }

        assert_eq!(stats.shown(None)["byExecution"], json!({"exec_b": {"n/0": 1}, "exec_c": {"n/0": 1}}));
        assert_eq!(stats.shown(None)["requests"], 3);
    }

    #[test]
    fn nothing_is_tracked_when_switched_off() {
        let stats = Stats::new(0);
        stats.called("exec_a/n/0/1", None);

        assert_eq!(stats.shown(None)["byExecution"], json!({}));
        assert_eq!(stats.scripted("exec_a", "m"), 1);
        assert_eq!(stats.scripted("exec_a", "m"), 2);
    }
}

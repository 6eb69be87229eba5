//! Does the work: consumes, claims, walks the graph, calls models, reports.
//!
//! Read in this order: `config` and `service` (one process), `consumer` and `claims` (how an execution comes here), `runs`
//! and `halt` (what is held and what ends it), `lease`, `renewals`, `session` and `control` (what the leader says), `attempt`
//! (one attempt), `models` and `oddities` (the providers), `outbox` and `reporter` (how what happened reaches the ledger), `drain`
//! (how the process ends).
//!
//! Invariants: a model call starts only under a valid lease and while its attempt is not halted; a node that calls a model
//! starts only when the units of its parents are acknowledged; events are numbered in the order in which they are reported;
//! dropping a model's stream closes its connection.

mod attempt;
mod claims;
mod config;
mod consumer;
mod control;
mod drain;
mod halt;
mod lease;
mod metrics;
mod models;
mod oddities;
mod outbox;
mod renewals;
mod reporter;
mod runs;
mod service;
mod session;
mod versions;

pub use config::{ExecutorConfig, ProviderSettings};
pub use service::{ExecutorError, Handle, run};

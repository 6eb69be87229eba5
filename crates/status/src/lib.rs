//! Keeps the ledger: intake, scheduler, claims, reports, events, queries. The only service that talks to Postgres.
//!
//! Read in this order: `service` (one process), `leader` (one term of leadership), `scheduler` (the fair queue), then what
//! runs during a term: `intake`, `dispatch`, `writers` (by `group`), `leases` and `sessions`, `timers`, `upkeep`; `settle` and
//! `reconcile` keep the memory in step with the ledger; `live` shows what was committed; `counts` bounds what long histories
//! cost; `models` asks executors for models; `routes` is the internal HTTP API.

mod counts;
mod dispatch;
mod failpoint;
mod group;
mod intake;
mod leader;
mod leases;
mod live;
mod metrics;
mod models;
mod reconcile;
mod routes;
pub mod scheduler;
mod service;
mod sessions;
mod settle;
mod timers;
mod trace;
mod upkeep;
mod writers;

pub use service::{Handle, StatusConfig, StatusError, run};

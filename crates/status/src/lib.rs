//! Keeps the ledger: intake, scheduler, claims, reports, events, queries. The only service that talks to Postgres.
//!
//! Read in this order: `service` (one process), `leader` (one term of leadership), `scheduler` (the fair queue), then what
//! runs during a term: `intake`, `dispatch`, `leases`, `timers`, `upkeep`; `live` shows what was committed; `routes` is the
//! internal HTTP API.

mod dispatch;
mod failpoint;
mod intake;
mod leader;
mod leases;
mod live;
mod metrics;
mod routes;
pub mod scheduler;
mod service;
mod settle;
mod timers;
mod trace;
mod upkeep;

pub use service::{Handle, StatusConfig, StatusError, run};

//! Lets users in: authentication, the public HTTP API, event streams. Stateless: any number of replicas may run.
//!
//! Read in this order: `service` (one process), `edge` (what surrounds every request), `auth`, `engines`, `submit` (the path of
//! a submission), `hub` and `ring` (live events), then one file per resource.

mod auth;
mod body;
mod deliverables;
mod edge;
mod engines;
mod events;
mod execute;
mod executions;
mod failure;
mod form;
mod hub;
mod legacy;
mod limits;
mod me;
mod metrics;
mod openapi;
mod page;
mod restart;
mod ring;
mod service;
mod stop;
mod submit;
mod trace;
mod views;

pub use service::{GatewayConfig, GatewayError, Handle, run};

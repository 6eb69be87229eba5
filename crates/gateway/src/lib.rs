//! Lets users in: authentication, the public HTTP API, event streams. Stateless: any number of replicas may run.
//!
//! Read in this order: `service` (one process), `routes` and `edge` (what is served and what surrounds every request), `auth`,
//! `engines` and `memory` (who asks for what), `body`, `options`, `form` and `pointer` (what they may send), `accept` and
//! `submit` (the path of a submission), `hub`, `subscription` and `ring` (live events), then one file per resource.

mod accept;
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
mod idempotency;
mod legacy;
mod limits;
mod listing;
mod me;
mod memory;
mod metrics;
mod openapi;
mod options;
mod page;
mod pointer;
mod query;
mod restart;
mod ring;
mod routes;
mod service;
mod shards;
mod stop;
mod submit;
mod subscription;
mod trace;
mod viewer;
mod views;
mod wait;

pub use service::{GatewayConfig, GatewayError, Handle, run};

//! What is said between services: messages on the broker and requests over internal HTTP, versioned.
//!
//! Read in this order: `envelope`, `submission` (gateway to status), `dispatch`, `claim` and `report` (executor to status),
//! `control` and `live` (status to executors and gateways), `identity`, `read` and `operate` (gateway to status).
//! Compatible for one release: new fields are optional, unknown fields are ignored.

pub mod claim;
pub mod control;
pub mod dispatch;
pub mod envelope;
pub mod identity;
pub mod live;
pub mod operate;
pub mod read;
pub mod report;
pub mod submission;

pub use envelope::{Envelope, TraceContext, UnreadableEnvelope};

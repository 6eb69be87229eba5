//! The gateway through HTTP, in front of a real ledger.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "test code"
)]

mod admin;
mod bad_input;
mod described;
mod edge;
mod executions;
mod files;
mod legacy;
mod limits;
mod proxy;
mod restarts;
mod silence;
mod streams;
mod system;

//! The adapter against the simulator and against byte fixtures, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs,
    reason = "test code"
)]

mod closing;
mod faults;
mod fixtures;
mod gates;
mod simulator;
mod support;

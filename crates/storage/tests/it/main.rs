//! The ledger on a real Postgres: each test has a database of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    missing_docs,
    reason = "test code"
)]

mod administration;
mod attempt;
mod claims;
mod crashes;
mod expiry;
mod fences;
mod gate;
mod intake;
mod interleavings;
mod leaders;
mod ledger;
mod migrations;
mod model;
mod reads;
mod reports;
mod silence;
mod stops;

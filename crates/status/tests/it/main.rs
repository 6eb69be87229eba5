//! The status service through its real doors: a broker, internal HTTP, Postgres.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "test code"
)]

mod bench;
mod executors;
mod leaders;
mod lost_answers;
mod spine;
mod stops;
mod traced;
mod wire;

//! The executor against a fake status with real fencing rules, the real simulator and the in-process broker.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod drains;
mod failures;
mod fences;
mod flows;
mod ledger;
mod losses;
mod runs;
mod status;
mod stops;
mod traced;
mod world;

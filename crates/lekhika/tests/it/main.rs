//! The platform end to end: real processes, real servers, HTTP as a client speaks it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "test code"
)]

mod compose;
mod deploy_files;
mod dev;
mod documents;
mod finished;
mod killed;
mod outage;
mod processes;
mod scripts;
mod settings;
mod stack;
mod stopped;
mod system;
mod traces;

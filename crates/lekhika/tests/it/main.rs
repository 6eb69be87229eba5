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
mod events;
mod finished;
mod house;
mod killed;
mod leaders;
mod load;
mod members;
mod outage;
mod parted;
mod processes;
mod proxy;
mod scripts;
mod settings;
mod stack;
mod stopped;
mod system;
mod traces;

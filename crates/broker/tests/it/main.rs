//! The promises of `Broker`, on every implementation, and what only RabbitMQ can show.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "test code"
)]

mod promises;
mod rabbitmq;
mod responsibility;
mod restart;
mod world;

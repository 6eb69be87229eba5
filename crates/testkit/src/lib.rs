//! Helps tests: private Postgres and RabbitMQ, databases per test, waiting with deadlines.
//!
//! `scripts/with-services` (the binary of this crate) starts the servers once for many test processes; a test that runs
//! without it starts its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: what fails here fails the test, with a message"
)]

mod database;
pub mod services;
pub mod wait;

pub use database::TestDatabase;
pub use instances::{Folder, PostgresOptions, PrivatePostgres, PrivateRabbit, RabbitOptions};

/// The URL of a RabbitMQ that many tests share: use a random prefix for what you declare ([`random_prefix`]), and never
/// stop it. A test that stops its broker starts a [`PrivateRabbit`].
pub async fn amqp_url() -> String {
    services::url_of(services::Server::Rabbitmq).await
}

/// A prefix for names on a shared broker that no other test has.
#[must_use]
pub fn random_prefix() -> String {
    format!("test-{}.", uuid::Uuid::new_v4().simple())
}

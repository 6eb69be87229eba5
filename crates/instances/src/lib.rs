//! Starts private Postgres and RabbitMQ servers, keeps them to one owner, and stops them.
//!
//! Used by the embedded form, by the scripts and by tests. A server lives in a folder that one living process owns (by a
//! lock that the kernel releases with it); what a killed owner left behind is found and stopped by the next one. In
//! reading order:

mod error;
mod folder;
mod postgres;
mod process;
mod rabbitmq;
mod user;

pub use error::InstanceError;
pub use folder::reap;
pub use postgres::{PostgresOptions, PrivatePostgres};
pub use rabbitmq::{PrivateRabbit, RabbitOptions};

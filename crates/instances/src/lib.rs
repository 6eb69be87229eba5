//! Starts private Postgres and RabbitMQ servers, keeps them to one owner, and stops them.
//!
//! Used by the embedded form, by the scripts and by tests. A server lives in a folder that one living process owns (by a
//! lock that the kernel releases with it); what a killed owner left behind carries its folder's mark, is found by it, and is
//! ended by the next owner or by [`reap`]. In reading order:

mod error;
mod folder;
mod leftovers;
mod ports;
mod postgres;
mod postmaster;
mod process;
mod rabbitmq;
mod user;

pub use error::InstanceError;
pub use folder::{Folder, reap};
pub use leftovers::end_with_parent;
pub use ports::free_listener;
pub use postgres::{PostgresOptions, PrivatePostgres};
pub use rabbitmq::{PrivateRabbit, RabbitOptions};

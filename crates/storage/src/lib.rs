//! Every SQL statement of the platform. Only `status` depends on it.
//!
//! Read in this order: `pool`, `leader` (who may write), `ledger` (the one place where a state changes), the writes built on it
//! (`intake`, `claims`, `reports`, `fence`, `stops`, `expiry`), then the reads and the administration.

pub mod admin;
pub mod backlog;
pub mod claims;
mod error;
pub mod events;
pub mod executions;
pub mod executors;
pub mod expiry;
pub mod fence;
pub mod identity;
pub mod intake;
pub mod invariants;
mod kept;
pub mod leader;
mod ledger;
mod pool;
pub mod reports;
mod sql;
pub mod stops;
pub mod units;
pub mod upkeep;
mod usage;
pub mod versions;

pub use error::StorageError;
pub use pool::{Pool, PooledConnection, migrate, migrations_key, pool, revert_all};

//! The fair queue: start-time fair queueing tags, a ranked index, limits. Pure: time comes as an argument.
//!
//! `ranked` is the order-statistics structure, `fair` computes tags, `schedule` is the queue that the leader keeps in memory.

mod fair;
mod ranked;
mod schedule;

pub use fair::Drafts;
pub use ranked::Rank;
pub use schedule::{Job, Place, Schedule};

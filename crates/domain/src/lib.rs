//! What is true: ids, states, events, usage, keys, the flow document. Pure: no input or output, no tokio.
//!
//! Read in this order: `ids`, `execution` (the one state machine), `unit`, `event`, `record`, `failure`, `priority`, `key`; then `flow`, `template`, `schema`.

pub mod event;
pub mod execution;
pub mod failure;
pub mod flow;
pub mod ids;
pub mod key;
pub mod priority;
pub mod record;
pub mod schema;
pub mod sequence;
pub mod template;
pub mod unit;
pub mod usage;

pub use event::{Event, EventBody};
pub use execution::{Change, IllegalTransition, State, WaitingReason};
pub use failure::{Failure, FailureCode};
pub use ids::*;
pub use priority::Priority;
pub use record::EventRecord;
pub use sequence::{Sequence, attempt_of};
pub use unit::UnitKey;
pub use usage::{Usage, UsageSource};

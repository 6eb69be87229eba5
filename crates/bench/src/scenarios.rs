//! What is measured, one group of figures per file.

pub(crate) mod accepted;
pub(crate) mod completed;
pub(crate) mod latency;
pub(crate) mod memory;
pub(crate) mod queue;
pub(crate) mod raw;
pub(crate) mod streaming;

//! What flows promise, from the outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod examples;
mod forms;
mod problems;
mod rendering;
mod templates;
mod walks;

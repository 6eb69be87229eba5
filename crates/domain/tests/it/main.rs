//! What flows promise, from the outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::needless_range_loop,
    reason = "test code"
)]

mod examples;
mod forms;
mod problems;
mod rendering;
mod templates;
mod walks;

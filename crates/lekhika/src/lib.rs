//! The binary's parts: the command line, the roles, the embedded form, the stack, the client and the operator.
//!
//! Read in this order: `cli` (what can be asked for), `commands` (who answers), `roles` (one service per process),
//! `dev` (all in one process), `stack` (all as processes of one machine), `client`, `operator`, `flow`; below them
//! `bootstrap` (what a new platform needs), `refusal` (an answer that is none) and `signals` (being told to
//! end), `limits` (of the operating system).

pub mod bootstrap;
pub mod cli;
pub mod client;
pub mod commands;
pub mod dev;
pub mod flow;
pub mod limits;
pub mod operator;
pub mod refusal;
pub mod roles;
mod signals;
pub mod stack;

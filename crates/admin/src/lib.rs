//! Lets operators in: the admin listener of the gateway role. Thin: what it does is done by the leader.
//!
//! Read in this order: `token` (who may come in), `listener`, then one file per resource.

mod engines;
mod identity;
mod keys;
mod listener;
mod operations;
mod reply;
mod token;

pub use listener::{AdminConfig, serve};
pub use token::{Role, issue_token};

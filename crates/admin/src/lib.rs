//! Lets operators in: the admin listener of the gateway role. Thin: what it does is done by the leader.
//!
//! Read in this order: `token` (who may come in), `audit` (what they did), `listener`, then one file per resource.

mod audit;
mod edge;
mod engines;
mod identity;
mod keys;
mod listener;
mod operations;
mod reply;
mod text;
mod token;
mod views;

pub use listener::{AdminConfig, serve};
pub use token::{Role, issue_token};

//! Lets operators in: the admin listener of the gateway role.

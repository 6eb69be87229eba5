//! Every SQL statement of the platform.

//! Lets users in: authentication, the public HTTP API, event streams.

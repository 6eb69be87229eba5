//! The binary: one command for every role, the client and the operator.

fn main() {}

//! Keeps the ledger: intake, scheduler, claims, reports, events, retention, queries.

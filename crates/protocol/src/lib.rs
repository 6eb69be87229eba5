//! What is said between services: submissions, dispatches, reports, events, control; versioned.

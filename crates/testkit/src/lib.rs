//! Helps tests: private Postgres and RabbitMQ, databases per test, waiting with deadlines.

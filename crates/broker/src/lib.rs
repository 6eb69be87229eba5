//! Moves bytes between services: one trait, RabbitMQ and an in-process implementation.

//! A good process: configuration, telemetry, shutdown, health, clock, HTTP client, service tokens.

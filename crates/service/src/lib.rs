//! A good process: configuration, telemetry, shutdown, health, clock, HTTP client, service tokens.
//!
//! Nothing here knows what Lekhika does. In reading order:

mod chain;
pub mod clock;
pub mod config;
pub mod shutdown;
pub mod telemetry;
pub mod trace;

pub mod edge;
pub mod problem;
mod problem_code;

pub mod http_client;
pub mod internal_client;
pub mod object_store;
pub mod tokens;

pub mod internal_http;
pub mod metrics;
mod process_metrics;
pub mod readiness;

pub use chain::chain;
pub use clock::{Clock, FakeClock, SystemClock};
pub use config::{ConfigError, Environment};
pub use internal_client::{InternalClient, InternalError};
pub use object_store::ObjectStoreConfig;
pub use problem::{FieldError, Problem, ProblemCode};
pub use readiness::Readiness;
pub use shutdown::{Ended, Shutdown};
pub use tokens::{ServiceAuth, ServiceTokens};
pub use trace::TraceContext;

//! Logs on standard error and traces over OTLP.

use crate::{ConfigError, Environment};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use std::{io, time::Duration};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// An export that takes longer is given up: telemetry must not hold up the end of a process.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// What is logged and where traces go.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// As `RUST_LOG`: `info`, `info,broker=debug`. Variable `LEKHIKA_LOG`.
    pub filter: String,
    /// Lines for people instead of JSON. Variable `LEKHIKA_LOG_FORMAT`: `json` or `text`.
    pub text: bool,
    /// Base URL of an OTLP/HTTP collector. Variable `LEKHIKA_OTLP_ENDPOINT`; without it no spans are exported, but trace
    /// context is still passed on.
    pub otlp_endpoint: Option<String>,
}

impl TelemetryConfig {
    /// Reads `LEKHIKA_LOG`, `LEKHIKA_LOG_FORMAT` and `LEKHIKA_OTLP_ENDPOINT`.
    ///
    /// # Errors
    /// When the filter or the format cannot be read.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let filter = environment.or("LEKHIKA_LOG", "info");
        if let Err(e) = EnvFilter::try_new(&filter) {
            return Err(environment.problem(format!("LEKHIKA_LOG: `{filter}` is not a log filter ({e})")));
        }
        let text = match environment.or("LEKHIKA_LOG_FORMAT", "json").as_str() {
            "json" => false,
            "text" => true,
            other => return Err(environment.problem(format!("LEKHIKA_LOG_FORMAT: `{other}` is not json or text"))),
        };
        Ok(Self { filter, text, otlp_endpoint: environment.optional("LEKHIKA_OTLP_ENDPOINT") })
    }
}

/// Why telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("read the log filter")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// The OTLP exporter refuses its endpoint.
    #[error("set up the OTLP exporter (LEKHIKA_OTLP_ENDPOINT)")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// Called twice in one process.
    #[error("install the log subscriber")]
    AlreadyInitialised(#[source] tracing_subscriber::util::TryInitError),
    /// The filter could not be replaced.
    #[error("replace the log filter")]
    Reload(#[source] reload::Error),
}

/// Keeps the exporter; end it with [`shutdown`](Self::shutdown).
#[derive(Debug)]
pub struct Telemetry {
    provider: SdkTracerProvider,
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Starts logs and traces for the process. `role` names the service in traces, as `lekhika-<role>`.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(role: &str, config: &TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let filter = EnvFilter::try_new(&config.filter).map_err(TelemetryError::Filter)?;
    let (filter, handle) = reload::Layer::new(filter);
    let provider = tracer_provider(role, config)?;
    let logs = if config.text {
        fmt::layer().with_writer(io::stderr).boxed()
    } else {
        fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(io::stderr).boxed()
    };
    let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("lekhika"));
    let subscriber = tracing_subscriber::registry().with(filter).with(logs).with(traces);
    subscriber.try_init().map_err(TelemetryError::AlreadyInitialised)?;
    Ok(Telemetry { provider, filter: handle })
}

impl Telemetry {
    /// Logs by another filter from now on.
    ///
    /// # Errors
    /// When the filter cannot be read.
    pub fn set_filter(&self, filter: &str) -> Result<(), TelemetryError> {
        let filter = EnvFilter::try_new(filter).map_err(TelemetryError::Filter)?;
        self.filter.reload(filter).map_err(TelemetryError::Reload)
    }

    /// Sends the spans that are still held, for at most three seconds. Blocks: call it outside the runtime or in
    /// `spawn_blocking`.
    pub fn shutdown(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(EXPORT_TIMEOUT) {
            tracing::warn!(%error, "the last spans could not be exported");
        }
    }
}

/// Without a collector the provider samples nothing, which keeps spans cheap, but they still have ids to pass on.
fn tracer_provider(role: &str, config: &TelemetryConfig) -> Result<SdkTracerProvider, TelemetryError> {
    let resource = Resource::builder().with_service_name(format!("lekhika-{role}")).build();
    let builder = SdkTracerProvider::builder().with_resource(resource);
    let Some(endpoint) = &config.otlp_endpoint else {
        return Ok(builder.with_sampler(Sampler::AlwaysOff).build());
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(TelemetryError::Exporter)?;
    let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
    Ok(builder.with_sampler(sampler).with_batch_exporter(exporter).build())
}

//! Logs on standard error and traces over OTLP.

use crate::{ConfigError, Environment};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use std::{io, time::Duration};
use tracing::{Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::FilterFn,
    fmt,
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::{SubscriberInitExt, TryInitError},
};

/// An export that takes longer is given up: telemetry must not hold up the end of a process.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// What is logged and where traces go.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// As `RUST_LOG`: `info`, `info,broker=debug`; of the log only. Variable `LEKHIKA_LOG`.
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
        let otlp_endpoint = environment.url("LEKHIKA_OTLP_ENDPOINT");
        let filter = environment.or("LEKHIKA_LOG", "info");
        if let Err(e) = EnvFilter::try_new(&filter) {
            return Err(environment.problem(format!("LEKHIKA_LOG: `{filter}` is not a log filter ({e})")));
        }
        let text = match environment.or("LEKHIKA_LOG_FORMAT", "json").as_str() {
            "json" => false,
            "text" => true,
            other => return Err(environment.problem(format!("LEKHIKA_LOG_FORMAT: `{other}` is not json or text"))),
        };
        Ok(Self { filter, text, otlp_endpoint: otlp_endpoint? })
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
    AlreadyInitialised(#[source] TryInitError),
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
    let (subscriber, telemetry) = prepare(role, config)?;
    subscriber.try_init().map_err(TelemetryError::AlreadyInitialised)?;
    Ok(telemetry)
}

/// Makes what [`init`] installs, for those who install it for one thread only.
///
/// # Errors
/// [`TelemetryError`].
pub fn prepare(
    role: &str,
    config: &TelemetryConfig,
) -> Result<(impl Subscriber + for<'span> LookupSpan<'span> + Send + Sync + use<>, Telemetry), TelemetryError> {
    let filter = EnvFilter::try_new(&config.filter).map_err(TelemetryError::Filter)?;
    let (filter, handle) = reload::Layer::new(filter);
    let provider = tracer_provider(role, config)?;
    let logs = if config.text {
        fmt::layer().with_writer(io::stderr).boxed()
    } else {
        fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(io::stderr).boxed()
    };
    // What costs something at every entry or for every span, and tells nothing that a span's name does not.
    let traces = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("lekhika"))
        .with_context_activation(false)
        .with_tracked_inactivity(false)
        .with_location(false)
        .with_threads(false);
    // A filter per layer: whoever logs errors only still passes trace context on.
    let subscriber = tracing_subscriber::registry()
        .with(logs.with_filter(filter))
        .with(traces.with_filter(traced(config.otlp_endpoint.is_some())));
    Ok((subscriber, Telemetry { provider, filter: handle }))
}

/// Spans from `info` up have ids in any case; events belong to a trace only when somebody collects it.
fn traced(exported: bool) -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    let wanted = move |metadata: &Metadata<'_>| *metadata.level() <= Level::INFO && (exported || metadata.is_span());
    FilterFn::new(wanted).with_max_level_hint(LevelFilter::INFO)
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

//! W3C trace context: where a span's identity enters and leaves the process.

use actix_web::{
    Error, HttpRequest,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    middleware::Next,
};
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::TraceContextExt,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use serde::{Deserialize, Serialize};
use tracing::{Instrument as _, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header of the identity of a span.
pub const TRACEPARENT: &str = "traceparent";
/// The header of vendors' additions.
pub const TRACESTATE: &str = "tracestate";
/// A longer `tracestate` is not passed on: the standard asks for no more, and it would travel in every message.
const TRACESTATE_BYTES: usize = 512;
/// A span that handles a batch links so many senders at most; a collector keeps no more.
const LINKS: usize = 128;

/// The identity of a span, as it travels in headers and envelopes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// `00-<trace id>-<span id>-<flags>`.
    pub traceparent: String,
    /// Vendors' additions, passed on unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

/// The context of the current span; `None` when telemetry is not initialised or there is no span.
#[must_use]
pub fn current() -> Option<TraceContext> {
    of(&Span::current())
}

/// The context of a span.
#[must_use]
pub fn of(span: &Span) -> Option<TraceContext> {
    let context = span.context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut carrier = TraceContext::default();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    Some(carrier).filter(|c| !c.traceparent.is_empty())
}

/// Makes `span` a child of the remote span. Call it before the span is entered. A context that cannot be read is ignored:
/// a peer's bad header must not fail its request.
pub fn set_parent(span: &Span, context: &TraceContext) {
    let remote = extract(context);
    if remote.span().span_context().is_valid() && span.set_parent(remote).is_err() {
        tracing::debug!("the span was already started without its remote parent");
    }
}

/// Links `span` to the remote span: for consumers of messages, where one span handles many.
pub fn link(span: &Span, context: &TraceContext) {
    let remote = extract(context);
    span.add_link(remote.span().span_context().clone());
}

/// Connects `span` with the senders of the `count` messages that it handles: one is its parent, so that a trace goes on
/// through a queue; several are links, and are only looked at when somebody records the span.
pub fn handles(span: &Span, count: usize, mut senders: impl Iterator<Item = TraceContext>) {
    if count == 1 {
        senders.next().iter().for_each(|sender| set_parent(span, sender));
    } else if is_recorded(span) {
        senders.take(LINKS).for_each(|sender| link(span, &sender));
    }
}

/// Whether what is said about the span reaches a collector. Its parent is settled from here on.
#[must_use]
pub fn is_recorded(span: &Span) -> bool {
    span.context().span().is_recording()
}

/// The context in a request's headers, found with `header(name)`.
pub fn from_headers<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<TraceContext> {
    let traceparent = header(TRACEPARENT)?.to_owned();
    let tracestate = header(TRACESTATE).filter(|state| state.len() <= TRACESTATE_BYTES).map(str::to_owned);
    Some(TraceContext { traceparent, tracestate })
}

/// The context that an HTTP request brought.
#[must_use]
pub fn from_request(request: &HttpRequest) -> Option<TraceContext> {
    from_headers(|name| request.headers().get(name)?.to_str().ok())
}

/// Middleware for an internal listener: `.wrap(from_fn(service::trace::surround))`. The request gets a span that continues the
/// caller's; what its handler sends carries it on.
///
/// # Errors
/// Those of the handler.
pub async fn surround(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let span = tracing::info_span!("internal request", otel.kind = "server", url.path = request.path());
    if let Some(parent) = from_request(request.request()) {
        set_parent(&span, &parent);
    }
    next.call(request).instrument(span).await
}

fn extract(context: &TraceContext) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), context)
}

impl Extractor for TraceContext {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => Some(&self.traceparent),
            TRACESTATE => self.tracestate.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

impl Injector for TraceContext {
    fn set(&mut self, key: &str, value: String) {
        match key {
            TRACEPARENT => self.traceparent = value,
            TRACESTATE if !value.is_empty() => self.tracestate = Some(value),
            _ => {}
        }
    }
}

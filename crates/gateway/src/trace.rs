//! Trace context as messages carry it.

use protocol::TraceContext;

/// The context of the current span.
pub(crate) fn current() -> Option<TraceContext> {
    service::trace::current().map(|of| TraceContext { traceparent: of.traceparent, tracestate: of.tracestate })
}

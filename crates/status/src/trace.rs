//! Trace context as messages carry it.

use protocol::TraceContext;

/// The context of the current span.
pub(crate) fn current() -> Option<TraceContext> {
    service::trace::current().map(|of| TraceContext { traceparent: of.traceparent, tracestate: of.tracestate })
}

/// The context that a message brought.
pub(crate) fn sent(by: &TraceContext) -> service::TraceContext {
    service::TraceContext { traceparent: by.traceparent.clone(), tracestate: by.tracestate.clone() }
}

//! Trace context that enters and leaves the process.

use actix_web::{App, HttpResponse, HttpServer, web};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use service::{
    TraceContext,
    telemetry::{self, TelemetryConfig},
    trace,
};
use tokio::sync::mpsc;
use tracing_subscriber::layer::SubscriberExt;

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

fn remote(flags: &str) -> TraceContext {
    TraceContext { traceparent: format!("00-{TRACE_ID}-b7ad6b7169203331-{flags}"), tracestate: Some("v=1".to_owned()) }
}

/// As `telemetry::init` without a collector, but for this thread only.
fn with_telemetry(test: impl FnOnce()) {
    let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOff).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), test);
}

#[test]
fn a_span_continues_the_trace_of_its_remote_parent() {
    with_telemetry(|| {
        let span = tracing::info_span!("handle");
        trace::set_parent(&span, &remote("01"));

        let here = span.in_scope(trace::current).unwrap();

        assert_eq!(here.traceparent.split('-').nth(1), Some(TRACE_ID));
        assert_ne!(here.traceparent.split('-').nth(2), Some("b7ad6b7169203331"));
        assert_eq!(here.tracestate.as_deref(), Some("v=1"));
    });
}

#[test]
fn a_linked_span_keeps_a_trace_of_its_own() {
    with_telemetry(|| {
        let span = tracing::info_span!("consume");
        trace::link(&span, &remote("01"));

        let here = span.in_scope(trace::current).unwrap();

        assert_ne!(here.traceparent.split('-').nth(1), Some(TRACE_ID));
    });
}

#[test]
fn a_context_that_cannot_be_read_is_ignored() {
    with_telemetry(|| {
        let span = tracing::info_span!("handle");
        trace::set_parent(&span, &TraceContext { traceparent: "nonsense".to_owned(), tracestate: None });

        assert!(span.in_scope(trace::current).is_some());
    });
}

#[test]
fn a_span_that_handles_one_message_goes_on_with_its_trace_and_of_several_it_starts_one() {
    with_telemetry(|| {
        let (one, several) = (tracing::info_span!("one"), tracing::info_span!("several"));

        trace::handles(&one, 1, [remote("01")].into_iter());
        trace::handles(&several, 2, [remote("01"), remote("01")].into_iter());

        let trace_of = |span: &tracing::Span| trace::of(span).unwrap().traceparent[3..35].to_owned();
        assert_eq!(trace_of(&one), TRACE_ID);
        assert_ne!(trace_of(&several), TRACE_ID);
    });
}

#[test]
fn a_log_filter_does_not_switch_trace_context_off() {
    let config = TelemetryConfig { filter: "error".to_owned(), text: true, otlp_endpoint: None };
    let (subscriber, telemetry) = telemetry::prepare("status", &config).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        let outer = tracing::info_span!("outer");
        trace::set_parent(&outer, &remote("01"));

        let inner = outer.in_scope(|| tracing::info_span!("inner").in_scope(trace::current)).unwrap();
        assert_eq!(inner.traceparent.split('-').nth(1), Some(TRACE_ID));

        telemetry.set_filter("off").unwrap();
        assert!(tracing::info_span!("later").in_scope(trace::current).is_some());
    });
}

#[test]
fn a_tracestate_that_is_too_long_is_left_out() {
    let long = "v=".to_owned() + &"x".repeat(600);
    let context = trace::from_headers(|name| if name == trace::TRACESTATE { Some(&long) } else { Some("00-a-b-01") });

    assert_eq!(context.unwrap().tracestate, None);
}

#[test]
fn without_telemetry_there_is_no_context() {
    let nothing = tracing::subscriber::NoSubscriber::default();
    tracing::subscriber::with_default(nothing, || {
        assert_eq!(tracing::info_span!("alone").in_scope(trace::current), None);
    });
}

#[tokio::test]
async fn spans_reach_the_collector_before_the_process_ends() {
    let (url, mut received) = collector();
    let config = TelemetryConfig { filter: "info".to_owned(), text: false, otlp_endpoint: Some(url) };
    let telemetry = telemetry::init("status", &config).unwrap();

    tracing::info_span!("unmistakable").in_scope(|| tracing::info!("done"));
    tokio::task::spawn_blocking(|| telemetry.shutdown()).await.unwrap();

    let body = received.recv().await.unwrap();
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains("unmistakable") && text.contains("lekhika-status"), "{text}");
}

/// Takes OTLP over HTTP and passes the bodies on.
fn collector() -> (String, mpsc::Receiver<web::Bytes>) {
    let (sender, received) = mpsc::channel(16);
    let server = HttpServer::new(move || {
        let sender = sender.clone();
        let take = move |body: web::Bytes| {
            let sender = sender.clone();
            async move {
                sender.send(body).await.unwrap();
                HttpResponse::Ok().finish()
            }
        };
        App::new().route("/v1/traces", web::post().to(take))
    })
    .workers(1)
    .disable_signals()
    .bind("127.0.0.1:0")
    .unwrap();
    let url = format!("http://{}", server.addrs()[0]);
    tokio::spawn(server.run());
    (url, received)
}

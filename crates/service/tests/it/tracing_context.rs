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

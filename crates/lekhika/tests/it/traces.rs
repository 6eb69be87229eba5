//! One trace from a client's request to the call of the provider, as a collector sees it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use actix_web::{App, HttpResponse, HttpServer, web};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value::StringValue,
    trace::v1::{ResourceSpans, Span},
};
use prost::Message as _;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::wait;

use crate::system::{System, WITHIN};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT_SPAN: &str = "b7ad6b7169203331";

/// A span as it was exported.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    service: String,
    name: String,
    id: String,
    parent: String,
}

/// Takes OTLP over HTTP and keeps the spans of our trace.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<BTreeSet<Seen>>>);

impl Collector {
    fn serve(&self) -> String {
        let this = self.clone();
        let server = HttpServer::new(move || {
            let this = this.clone();
            let take = move |body: web::Bytes| {
                this.take(&body);
                async { HttpResponse::Ok().finish() }
            };
            App::new().app_data(web::PayloadConfig::new(64 << 20)).route("/v1/traces", web::post().to(take))
        });
        let server = server.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", server.addrs()[0]);
        tokio::spawn(server.run());
        url
    }

    fn take(&self, body: &[u8]) {
        for of_process in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
            let service = service(&of_process);
            let spans = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let ours = spans.filter(|span| hex::encode(&span.trace_id) == TRACE_ID);
            self.0.lock().unwrap().extend(ours.map(|span| seen(&service, &span)));
        }
    }

    fn spans(&self) -> BTreeSet<Seen> {
        self.0.lock().unwrap().clone()
    }
}

fn service(of: &ResourceSpans) -> String {
    let attributes = of.resource.iter().flat_map(|resource| &resource.attributes);
    let named = attributes.filter(|attribute| attribute.key == "service.name");
    named
        .filter_map(|attribute| attribute.value.as_ref()?.value.as_ref())
        .find_map(|value| if let StringValue(name) = value { Some(name.clone()) } else { None })
        .unwrap()
}

fn seen(service: &str, span: &Span) -> Seen {
    let (id, parent) = (hex::encode(&span.span_id), hex::encode(&span.parent_span_id));
    Seen { service: service.to_owned(), name: span.name.clone(), id, parent }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_trace_goes_through_every_service_to_the_provider() {
    let collector = Collector::default();
    let url = collector.serve();
    let few = ["--gateways", "1", "--statuses", "1", "--executors", "1"];
    // The log of the stack's processes says errors only: that must not switch traces off.
    let variables = [("LEKHIKA_OTLP_ENDPOINT", &*url), ("OTEL_BSP_SCHEDULE_DELAY", "100"), ("LEKHIKA_LOG", "error")];
    let system = System::start_with(&few, &variables).await;
    system.deploy("one", &["sim/instant"]).await;

    let request = system.request(Method::POST, "/v1/engines/one/execute");
    let request = request.header("traceparent", format!("00-{TRACE_ID}-{CLIENT_SPAN}-01"));
    let accepted: Value =
        request.json(&json!({"input": {"topic": "bees"}})).send().await.unwrap().json().await.unwrap();
    let id = accepted["executionId"].as_str().unwrap();
    assert_eq!(system.ended(id).await["status"], "completed");

    let spans = wait::until(WITHIN, "the trace at the collector", async || {
        let spans = collector.spans();
        let found = |service: &str, name: &str| spans.iter().any(|span| span.service == service && span.name == name);
        let complete = found("lekhika-gateway", "request")
            && found("lekhika-gateway", "publish")
            && found("lekhika-status", "intake")
            && found("lekhika-status", "internal request")
            && found("lekhika-executor", "execution")
            && found("lekhika-executor", "model call");
        // One tree: nothing hangs in the air once everything has arrived.
        let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).chain([CLIENT_SPAN]).collect();
        let whole = spans.iter().all(|span| ids.contains(span.parent.as_str()));
        if complete && whole { Ok(spans) } else { Err(spans) }
    })
    .await;
    let seen = system.simulator(Method::GET, &format!("/stats?execution={id}")).await["traceparent"].clone();
    let call = spans.iter().find(|span| span.name == "model call").unwrap();
    assert_eq!(seen, format!("00-{TRACE_ID}-{}-01", call.id), "the provider can go on with it");
}

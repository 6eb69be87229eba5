//! Trace context: every request and message of an executor has it, and a submitter's trace reaches the provider.

use broker::{Message, Queue};
use protocol::{Envelope, TraceContext, dispatch::Dispatch};
use service::telemetry::{self, TelemetryConfig};
use tokio::time::timeout;

use crate::{
    flows,
    world::{DEADLINE, World},
};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

/// For the whole process: tasks run on many threads. Another test of this process may have done it already.
fn traced() {
    let config = TelemetryConfig { filter: "error".to_owned(), text: true, otlp_endpoint: None };
    drop(telemetry::init("executor", &config));
}

fn context() -> TraceContext {
    TraceContext { traceparent: format!("00-{TRACE_ID}-b7ad6b7169203331-01"), tracestate: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_context_and_the_submitters_trace_reaches_the_provider() {
    traced();
    let world = World::new().await;
    world.status.ledger(|ledger| ledger.traceparent = Some(context().traceparent));
    let worker = world.worker();

    let id = world.submit(&flows::steps(&["sim/instant"; 2]), &flows::input());
    world.finish(id).await;
    worker.shutdown.stop(DEADLINE).await;

    let asked = world.status.traced();
    for path in ["claims", "reports", "renewals", "session", "versions/get"] {
        let of = asked.iter().filter(|(asked, _)| asked.ends_with(path));
        let traced: Vec<bool> = of.map(|(_, traced)| *traced).collect();
        assert!(!traced.is_empty() && traced.iter().all(|traced| *traced), "{path}: {traced:?}");
    }
    let seen = world.get(&format!("/stats?execution={id}")).await["traceparent"].clone();
    assert!(seen.as_str().is_some_and(|seen| seen.contains(TRACE_ID)), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_passed_on_keeps_the_context_of_its_release() {
    traced();
    let world = World::new().await;
    let worker = world.worker_with(|config| config.slots = 1);
    let flow = flows::steps(&["sim/gate-held"]);
    let both = [(); 2].map(|()| world.status.ledger(|ledger| ledger.submit(&flow, &flows::input(), None)));

    let offer = Envelope::new(Dispatch { term: 1, executions: both.to_vec() }, Some(context())).to_bytes().unwrap();
    world.broker.hint(Queue::Dispatch, Message::transient(offer));
    world.at_gate("held", 1).await;
    let rest = timeout(DEADLINE, world.broker.consume(Queue::Dispatch, 1).next()).await.unwrap().unwrap();

    let rest = Envelope::<Dispatch>::from_bytes(&rest.body).unwrap();
    assert_eq!(rest.body.executions.len(), 1);
    assert_eq!(rest.trace, Some(context()));
    worker.shutdown.abort.cancel();
}

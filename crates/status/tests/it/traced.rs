//! Trace context: every message that status sends has it, and what comes with context is continued.

use broker::{Broker as _, Heard, Queue};
use domain::{EventBody, GatewayId};
use protocol::{
    Envelope, TraceContext,
    control::{self, Control},
    live::{LiveEvents, WATCH_PATH, Watch, shard_of, topic_of},
    operate::{STOP_PATH, Stop},
    submission::{SubmissionReplies, Submissions},
};
use service::telemetry::{self, TelemetryConfig};
use tokio::time::timeout;

use crate::bench::{Attempt, Bench, FakeExecutor, WITHIN, post};

const TRACES: [&str; 2] = ["0af7651916cd43dd8448eb211c80319c", "1bf7651916cd43dd8448eb211c80319d"];

/// For the whole process: the service's tasks run on many threads. Another test of this process may have done it already.
fn traced() {
    let config = TelemetryConfig { filter: "error".to_owned(), text: true, otlp_endpoint: None };
    drop(telemetry::init("status", &config));
}

fn context(trace_id: &str) -> TraceContext {
    TraceContext { traceparent: format!("00-{trace_id}-b7ad6b7169203331-01"), tracestate: None }
}

async fn heard(listener: &mut broker::Listener) -> bytes::Bytes {
    loop {
        match timeout(WITHIN, listener.next()).await.expect("an announcement").unwrap() {
            Heard::Announcement(announcement) => return announcement.body,
            Heard::Gap => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_message_carries_the_context_of_the_span_that_made_it() {
    traced();
    let mut bench = Bench::start().await;
    let executor = FakeExecutor::join(&bench).await;
    let mut replies = bench.broker.inbox(16);
    let mut submission = bench.submission();
    submission.trace = Some(context(TRACES[0]));
    let id = submission.execution_id;
    let mut orders = bench.broker.listen(&[control::TOPIC.to_owned()], 16);
    let mut live = bench.broker.listen(&[topic_of(shard_of(id))], 16);
    let watch = Watch { gateway_id: GatewayId::generate(), executions: vec![id] };
    post::<_, Option<()>>(&bench.client, WATCH_PATH, &watch).await.unwrap();

    let letter = Envelope::new(Submissions { submissions: vec![submission] }, Some(context(TRACES[0])));
    bench.send(&letter, replies.address().borrow().clone()).await;

    let reply = timeout(WITHIN, replies.next()).await.expect("a reply").unwrap();
    let reply = Envelope::<SubmissionReplies>::from_bytes(&reply).unwrap().trace.expect("of the intake");
    assert!(reply.traceparent.contains(TRACES[0]), "one submission, one trace: {reply:?}");
    let queued = Envelope::<LiveEvents>::from_bytes(&heard(&mut live).await).unwrap().trace.expect("of the intake");
    assert!(queued.traceparent.contains(TRACES[0]), "{queued:?}");

    assert!(bench.dispatch().await.trace.is_some(), "of the release");

    let grant = executor.claim(id).await.unwrap();
    assert!(grant.traceparent.as_ref().is_some_and(|context| context.contains(TRACES[0])), "{:?}", grant.traceparent);
    let mut attempt = Attempt::of(&grant);
    let mut report = attempt.report();
    report.events = vec![attempt.event(EventBody::Started)];
    executor.report(report).await;
    assert!(Envelope::<LiveEvents>::from_bytes(&heard(&mut live).await).unwrap().trace.is_some(), "of the report");

    let stop = Stop { subject: bench.subject(id), force: false, wait_ms: 0 };
    let span = tracing::info_span!("client");
    let carried = service::trace::of(&span).unwrap().traceparent;
    let stopping = post::<_, serde_json::Value>(&bench.client, STOP_PATH, &stop);
    tracing::Instrument::instrument(stopping, span).await.unwrap();
    let order = Envelope::<Control>::from_bytes(&heard(&mut orders).await).unwrap().trace.expect("of the request");
    assert_eq!(order.traceparent[3..35], carried[3..35], "the caller's trace goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_in_one_message_keep_their_own_traces() {
    traced();
    let bench = Bench::start().await;
    let executor = FakeExecutor::join(&bench).await;
    let (mut first, mut second, old) = (bench.submission(), bench.submission(), bench.submission());
    (first.trace, second.trace) = (Some(context(TRACES[0])), Some(context(TRACES[1])));
    let ids = [first.execution_id, second.execution_id, old.execution_id];

    // The context of the message itself is that of a release which knew no other.
    let message = "2cf7651916cd43dd8448eb211c80319e";
    let letter = Envelope::new(Submissions { submissions: vec![first, second, old] }, Some(context(message)));
    bench.send(&letter, None).await;

    for (id, expected) in ids.into_iter().zip([TRACES[0], TRACES[1], message]) {
        let grant = testkit::wait::until(WITHIN, "the claim", async || executor.claim(id).await.ok_or(())).await;
        assert!(grant.traceparent.as_ref().is_some_and(|of| of.contains(expected)), "{:?}", grant.traceparent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_and_a_lost_executor_are_shown_with_context_too() {
    traced();
    let mut bench = Bench::start().await;
    let mut submission = bench.submission();
    submission.queue_deadline_at = Some(crate::bench::now() + chrono::TimeDelta::milliseconds(300));
    let id = submission.execution_id;
    let mut live = bench.broker.listen(&[topic_of(shard_of(id))], 16);
    let watch = Watch { gateway_id: GatewayId::generate(), executions: vec![id] };
    post::<_, Option<()>>(&bench.client, WATCH_PATH, &watch).await.unwrap();

    bench.publish(vec![submission]).await;
    bench.replies().await;

    for _ in ["queued", "expired"] {
        assert!(Envelope::<LiveEvents>::from_bytes(&heard(&mut live).await).unwrap().trace.is_some());
    }
    let executor = FakeExecutor::join(&bench).await;
    let lost = bench.submit().await;
    testkit::wait::until(WITHIN, "the claim", async || executor.claim(lost).await.ok_or(())).await;
    live.bind(&topic_of(shard_of(lost))).await.unwrap();
    let watch = Watch { executions: vec![lost], ..watch };
    post::<_, Option<()>>(&bench.client, WATCH_PATH, &watch).await.unwrap();
    executor.goodbye().await;
    assert!(Envelope::<LiveEvents>::from_bytes(&heard(&mut live).await).unwrap().trace.is_some());
    assert_eq!(bench.broker.depth(Queue::Dead, WITHIN).await.unwrap(), 0);
}

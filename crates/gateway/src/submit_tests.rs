//! What a message of submissions carries, and how long a client waits for it.

use super::*;
use broker::InProcessBroker;
use domain::{EngineId, KeyId, Priority, UserId, VersionId};
use service::{
    TraceContext,
    telemetry::{self, TelemetryConfig},
    trace,
};

fn submission() -> Submission {
    Submission {
        execution_id: ExecutionId::generate(),
        user_id: UserId::generate(),
        engine_id: EngineId::generate(),
        user_engine_id: None,
        version_id: VersionId::generate(),
        key_id: KeyId::generate(),
        input: serde_json::value::to_raw_value("x").unwrap(),
        priority: Priority::Normal,
        labels: std::collections::BTreeMap::new(),
        end_user: None,
        submitted_at: chrono::DateTime::UNIX_EPOCH,
        deadline_at: None,
        queue_deadline_at: None,
        idempotency: None,
        parent: None,
        trace: crate::trace::current(),
    }
}

/// A packet of a request in the trace of this id.
fn packet(trace_id: &str) -> (Packet, oneshot::Receiver<Result<(), bool>>) {
    let span = tracing::info_span!("request");
    let traceparent = format!("00-{trace_id}-b7ad6b7169203331-01");
    trace::set_parent(&span, &TraceContext { traceparent, tracestate: Some("v=1".to_owned()) });
    let (confirmed, confirm) = oneshot::channel();
    let packet = span.in_scope(|| Packet { submission: submission(), span: Span::current(), confirmed });
    (packet, confirm)
}

fn traced() -> tracing::subscriber::DefaultGuard {
    let config = TelemetryConfig { filter: "off".to_owned(), text: true, otlp_endpoint: None };
    tracing::subscriber::set_default(telemetry::prepare("gateway", &config).unwrap().0)
}

#[tokio::test]
async fn two_requests_in_one_message_keep_a_trace_each() {
    let _traced = traced();
    let ids = ["0af7651916cd43dd8448eb211c80319c", "1bf7651916cd43dd8448eb211c80319d"];
    let ((first, _one), (second, _two)) = (packet(ids[0]), packet(ids[1]));
    let broker = InProcessBroker::new();
    let mut consumer = broker.consume(Queue::Submissions, 1);
    let packets = vec![first, second];

    let span = span_of(&packets);
    let publishing = publish(&broker, packets, None).instrument(span);
    let taking = async {
        let delivery = consumer.next().await.unwrap();
        let envelope = Envelope::<Submissions>::from_bytes(&delivery.body).unwrap();
        delivery.ack();
        envelope
    };
    let ((), envelope) = tokio::join!(publishing, taking);

    let traces: Vec<_> = envelope.body.submissions.iter().map(|one| one.trace.clone().unwrap()).collect();
    for (trace, id) in traces.iter().zip(ids) {
        assert!(trace.traceparent.contains(id), "{traces:?}");
        assert_eq!(trace.tracestate.as_deref(), Some("v=1"));
    }
    let message = envelope.trace.unwrap().traceparent;
    assert!(ids.iter().all(|id| !message.contains(id)), "it is neither tenant's");
}

#[tokio::test]
async fn a_message_of_one_submission_goes_on_in_its_trace() {
    let _traced = traced();
    let id = "0af7651916cd43dd8448eb211c80319c";

    let span = span_of(&[packet(id).0]);

    assert!(trace::of(&span).unwrap().traceparent.contains(id));
}

#[tokio::test]
async fn a_client_is_answered_although_the_broker_is_silent() {
    let broker: Arc<dyn Broker> = Arc::new(InProcessBroker::new());
    let shutdown = Shutdown::new();
    let metrics = Metrics::new(&prometheus::Registry::new());
    let submitter = Submitter::start(&broker, metrics, &shutdown);
    let began = Instant::now();

    // More than the messages under way: the last ones wait in the queue of packets.
    let waiting: Vec<_> = (0..IN_FLIGHT + 2).map(|_| submitter.submit(submission(), false)).collect();
    let outcomes = futures::future::join_all(waiting).await;

    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Unknown)), "{outcomes:?}");
    assert!(began.elapsed() < ANSWER_WITHIN + Duration::from_secs(1));
    shutdown.abort.cancel();
}

#[tokio::test]
async fn who_was_told_to_give_up_is_not_published_afterwards() {
    let broker: Arc<dyn Broker> = Arc::new(InProcessBroker::new());
    let shutdown = Shutdown::new();
    let (packets, waiting) = mpsc::channel(4);
    let (_, address) = watch::channel(None);
    let (gone, _) = packet("0af7651916cd43dd8448eb211c80319c");
    let (there, _confirm) = packet("0af7651916cd43dd8448eb211c80319c");
    let id = there.submission.execution_id;
    packets.send(gone).await.unwrap();
    packets.send(there).await.unwrap();
    shutdown.spawn(pack(Arc::clone(&broker), waiting, address, shutdown.clone()));

    let delivery = broker.consume(Queue::Submissions, 1).next().await.unwrap();

    let published = Envelope::<Submissions>::from_bytes(&delivery.body).unwrap().body.submissions;
    assert_eq!(published.iter().map(|one| one.execution_id).collect::<Vec<_>>(), [id]);
    delivery.ack();
    shutdown.abort.cancel();
}

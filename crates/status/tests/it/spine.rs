//! The path of one execution.

use domain::{EventBody, State};
use protocol::{
    Envelope,
    report::Standing,
    submission::{Idempotency, SubmissionOutcome},
};

use crate::bench::{Attempt, Bench, FakeExecutor, WITHIN};

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_is_taken_in_dispatched_claimed_reported_and_finished() {
    let mut bench = Bench::start().await;
    let executor = FakeExecutor::join(&bench).await;

    let id = bench.submit().await;
    assert_eq!(bench.dispatched().await, [id]);
    let grant = executor.claim(id).await.unwrap();
    assert_eq!((grant.epoch, grant.input.get()), (1, r#"{"topic":"bees"}"#));
    let mut attempt = Attempt::of(&grant);
    let mut report = attempt.unit("outline", "one");
    report.events = vec![attempt.event(EventBody::Started), attempt.delta("outline", "one", 0)];
    let verdict = executor.report(report.clone()).await;
    assert_eq!((verdict.standing, verdict.stored_through), (Standing::Held, attempt.last));
    // The answer was lost: the same report again changes nothing.
    assert_eq!(executor.report(report).await.standing, Standing::Held);
    assert_eq!(executor.report(attempt.finish()).await.standing, Standing::Over);
    assert_eq!(executor.report(attempt.finish()).await.standing, Standing::Over);

    let view = bench.view(id).await;
    assert_eq!((view.state, view.attempt), (State::Completed, 1));
    assert_eq!(view.result.unwrap().get(), r#"{"done":true}"#);
    let events = bench.events(id).await;
    assert!(events.windows(2).all(|pair| pair[1].prev == pair[0].sequence));
    assert_eq!(bench.names(id).await, ["execution.queued", "execution.started", "output.delta", "execution.completed"]);
    bench.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_twice_makes_one_execution() {
    let mut bench = Bench::start().await;
    let submission = bench.submission();

    bench.publish(vec![submission.clone()]).await;
    bench.replies().await;
    bench.publish(vec![submission.clone()]).await;
    let again = bench.replies().await;

    assert!(matches!(again[0].1, SubmissionOutcome::Accepted { .. }));
    assert_eq!(bench.names(submission.execution_id).await, ["execution.queued"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_again_and_again_costs_its_owner_one_place() {
    let mut bench = Bench::start().await;
    let (first, second) = (bench.submission(), bench.submission());
    for _ in 0..5 {
        bench.publish(vec![first.clone(), first.clone()]).await;
        bench.replies().await;
    }
    bench.publish(vec![second]).await;
    bench.replies().await;

    let tags = bench.psql().await.query("SELECT tag FROM executions ORDER BY tag", &[]).await.unwrap();

    let tags: Vec<f64> = tags.iter().map(|row| row.get(0)).collect();
    assert_eq!(tags, [0.0, 10_000.0], "one run's expected cost apart");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_answers_the_same_body_and_refuses_another() {
    let mut bench = Bench::start().await;
    let keyed = |hash: &str| {
        let mut submission = bench.submission();
        submission.idempotency =
            Some(Idempotency { route: "execute/x".into(), key: "k".into(), body_hash: hash.into() });
        submission
    };
    let (first, twin, same, other) = (keyed("a"), keyed("a"), keyed("a"), keyed("b"));

    bench.publish(vec![first.clone(), twin]).await;
    let both = bench.replies().await;
    bench.publish(vec![same, other]).await;
    let later = bench.replies().await;

    assert!(matches!(both[0].1, SubmissionOutcome::Accepted { .. }));
    for reply in [&both[1].1, &later[0].1] {
        assert!(
            matches!(reply, SubmissionOutcome::Replayed { execution_id, .. } if *execution_id == first.execution_id)
        );
    }
    assert!(matches!(later[1].1, SubmissionOutcome::Mismatch));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_rejects_with_its_code_and_keeps_a_row() {
    let mut bench = Bench::start_with(Some(2)).await;
    let all: Vec<_> = (0..3).map(|_| bench.submission()).collect();
    let third = all[2].execution_id;

    bench.publish(all).await;
    let replies = bench.replies().await;

    assert!(matches!(&replies[2].1, SubmissionOutcome::Rejected { code, .. } if code.as_str() == "queue_full"));
    assert_eq!(bench.view(third).await.state, State::Failed);
    assert_eq!(bench.names(third).await, ["execution.failed"]);
    bench.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_read_is_a_dead_letter_and_harms_nobody() {
    use broker::{Broker as _, Message, Queue};
    let mut bench = Bench::start().await;
    let newer = Envelope { v: 99, trace: None, body: serde_json::json!({}) }.to_bytes().unwrap();

    for poison in [b"{ not json".to_vec(), newer] {
        bench.broker.publish(Queue::Submissions, Message::persistent(poison), WITHIN).await.unwrap();
    }
    bench.submit().await;

    let mut dead = bench.broker.consume(Queue::Dead, 8);
    for _ in 0..2 {
        let letter = tokio::time::timeout(WITHIN, dead.next()).await.unwrap().unwrap();
        assert!(letter.headers.contains_key(broker::DEAD_REASON));
        letter.ack();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_events_takes_nothing() {
    let mut bench = Bench::start().await;
    let executor = FakeExecutor::join(&bench).await;
    let id = bench.submit().await;
    bench.dispatched().await;
    let mut attempt = Attempt::of(&executor.claim(id).await.unwrap());
    let first = attempt.event(EventBody::Started);
    let mut second = attempt.unit("outline", "lost");
    second.events = vec![attempt.delta("outline", "x", 0)];

    let verdict = executor.report(second.clone()).await;
    assert_eq!((verdict.standing, verdict.stored_through), (Standing::Gap, domain::Sequence(1)));
    second.events.insert(0, first);

    assert_eq!(executor.report(second).await.standing, Standing::Held);
}

/// An id that was made so long ago, of which nobody knows.
fn made(ago: chrono::TimeDelta) -> domain::ExecutionId {
    let at = crate::bench::now() - ago;
    let seconds = u64::try_from(at.timestamp()).unwrap();
    let at = uuid::Timestamp::from_unix(uuid::NoContext, seconds, at.timestamp_subsec_nanos());
    domain::ExecutionId::from_uuid(uuid::Uuid::new_v7(at))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_id_is_not_denied_while_older_submissions_wait() {
    use protocol::read::{EXECUTION_PATH, ExecutionView, Found};
    let bench = Bench::start().await;
    let subject = bench.subject(made(chrono::TimeDelta::seconds(30)));
    let ask =
        async || crate::bench::post::<_, Found<ExecutionView>>(&bench.client, EXECUTION_PATH, &subject).await.unwrap();
    assert!(matches!(ask().await, Found::Missing), "an empty queue hides nothing");
    // Status comes back to a long queue: what it takes in was submitted a minute ago, and there is always more.
    let asked = async {
        // One answer may still rest on the silence before.
        ask().await;
        ask().await
    };

    let answer = tokio::select! {
        () = async { tokio::join!(backlog(&bench), backlog(&bench)); } => unreachable!("it never ends"),
        answer = asked => answer,
    };

    assert!(matches!(answer, Found::NotYet), "{answer:?}");
}

async fn backlog(bench: &Bench) {
    loop {
        let mut old = bench.submission();
        old.execution_id = made(chrono::TimeDelta::minutes(1));
        old.submitted_at = old.execution_id.made_at().unwrap();
        bench.publish(vec![old]).await;
    }
}

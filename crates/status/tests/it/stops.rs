//! Stops, in every state.

use chrono::TimeDelta;
use domain::{EventBody, State};
use protocol::{
    operate::{STOP_PATH, Stop, Stopped},
    read::Found,
    report::{Finish, Standing},
};
use testkit::wait;

use crate::bench::{Attempt, Bench, FakeExecutor, WITHIN, now, post};

async fn stop(bench: &Bench, id: domain::ExecutionId, force: bool, wait_ms: u64) -> bool {
    let stop = Stop { subject: bench.subject(id), force, wait_ms };
    match post::<_, Found<Stopped>>(&bench.client, STOP_PATH, &stop).await.unwrap() {
        Found::Found(stopped) => stopped.terminal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_execution_is_cancelled_at_once_and_never_granted() {
    let mut bench = Bench::start().await;
    let id = bench.submit().await;

    assert!(stop(&bench, id, false, 0).await);
    assert!(stop(&bench, id, false, 0).await);

    let view = bench.view(id).await;
    assert_eq!((view.state, view.stop.unwrap().closed_by.as_deref()), (State::Cancelled, Some("status")));
    assert_eq!(bench.names(id).await, ["execution.queued", "execution.cancelled"]);
    let executor = FakeExecutor::join(&bench).await;
    assert!(executor.claim(id).await.is_none());
    bench.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_execution_is_stopped_by_its_executor_with_a_receipt() {
    let mut bench = Bench::start().await;
    let executor = FakeExecutor::join(&bench).await;
    let id = bench.submit().await;
    bench.dispatched().await;
    let mut attempt = Attempt::of(&executor.claim(id).await.unwrap());
    let mut report = attempt.report();
    report.events = vec![attempt.event(EventBody::Started), attempt.delta("a", "half a sen", 0)];
    executor.report(report).await;

    assert!(!stop(&bench, id, false, 0).await);
    assert_eq!(bench.view(id).await.state, State::Cancelling);
    assert_eq!(executor.report(attempt.report()).await.standing, Standing::Cancelling);
    let waiting = tokio::spawn({
        let stop = Stop { subject: bench.subject(id), force: false, wait_ms: 5_000 };
        let client = bench.client.clone();
        async move { post::<_, Found<Stopped>>(&client, STOP_PATH, &stop).await.unwrap() }
    });
    let now = now();
    let finish = Finish::Cancelled { acknowledged_at: now, upstream_closed_at: now, tokens: 3 };
    let mut last = attempt.report();
    last.events = vec![attempt.event(EventBody::Cancelling)];
    last.finish = Some(finish);
    executor.report(last).await;

    assert!(matches!(waiting.await.unwrap(), Found::Found(Stopped { terminal: true })));
    let receipt = bench.view(id).await.stop.unwrap();
    assert_eq!((receipt.closed_by.as_deref(), receipt.tokens_at_stop), (Some("executor"), Some(3)));
    assert!(receipt.executor_ack_at.is_some() && receipt.upstream_closed_at.is_some() && receipt.finished_at.is_some());
    bench.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_force_stop_fences_and_keeps_what_was_shown() {
    let mut bench = Bench::start().await;
    let executor = FakeExecutor::join(&bench).await;
    let id = bench.submit().await;
    bench.dispatched().await;
    let mut attempt = Attempt::of(&executor.claim(id).await.unwrap());
    let mut report = attempt.report();
    report.events = vec![attempt.event(EventBody::Started), attempt.delta("a", "half a sen", 0)];
    executor.report(report).await;

    assert!(stop(&bench, id, true, 0).await);

    assert_eq!(executor.report(attempt.finish()).await.standing, Standing::Lost);
    let view = bench.view(id).await;
    assert_eq!(view.state, State::Cancelled);
    assert_eq!(view.stop.unwrap().closed_by.as_deref(), Some("fence"));
    assert!(view.result.unwrap().get().contains("half a sen"));
    bench.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_execution_cannot_be_stopped_or_seen() {
    let mut bench = Bench::start().await;
    let id = bench.submit().await;
    let mut subject = bench.subject(id);
    subject.user_id = Some(domain::UserId::generate());

    let stop = Stop { subject: subject.clone(), force: true, wait_ms: 0 };
    let answer: Found<Stopped> = post(&bench.client, STOP_PATH, &stop).await.unwrap();

    assert!(matches!(answer, Found::Missing), "{answer:?}");
    assert_eq!(bench.view(id).await.state, State::Queued);
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_end_what_waits_and_what_runs() {
    let mut bench = Bench::start().await;
    let mut never = bench.submission();
    never.queue_deadline_at = Some(now() + TimeDelta::milliseconds(300));
    let mut late = bench.submission();
    late.deadline_at = Some(now() + TimeDelta::milliseconds(1_500));
    let (never_id, late_id) = (never.execution_id, late.execution_id);
    bench.publish(vec![never]).await;
    bench.replies().await;
    let ended = |id| {
        let bench = &bench;
        wait::until(WITHIN, "the end", async move || {
            let view = bench.view(id).await;
            if view.state.is_terminal() { Ok(view.state) } else { Err(view.state) }
        })
    };
    assert_eq!(ended(never_id).await, State::Expired);

    let executor = FakeExecutor::join(&bench).await;
    bench.publish(vec![late]).await;
    bench.replies().await;
    bench.dispatched().await;
    let attempt = Attempt::of(&executor.claim(late_id).await.unwrap());
    let bench = &bench;
    let state = wait::until(WITHIN, "the end", async move || {
        let view = bench.view(late_id).await;
        if view.state.is_terminal() { Ok(view.state) } else { Err(view.state) }
    })
    .await;

    assert_eq!(state, State::Failed);
    assert_eq!(bench.view(late_id).await.failure.unwrap().code.as_str(), "deadline_exceeded");
    assert_eq!(executor.report(attempt.finish()).await.standing, Standing::Lost);
    bench.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_force_stop_reaches_the_executor_by_the_number_it_knows() {
    use broker::{Broker as _, Heard};
    let mut bench = Bench::start().await;
    let executor = FakeExecutor::join(&bench).await;
    let id = bench.submit().await;
    bench.dispatched().await;
    let attempt = Attempt::of(&executor.claim(id).await.unwrap());
    let mut orders = bench.broker.listen(&[protocol::control::TOPIC.to_owned()], 8);
    assert!(matches!(orders.next().await, Some(Heard::Gap)), "it has missed what came before");

    let asked = std::time::Instant::now();
    assert!(stop(&bench, id, true, 0).await);
    let heard = tokio::time::timeout(WITHIN, orders.next()).await.expect("an order").unwrap();

    assert!(asked.elapsed() < std::time::Duration::from_millis(250), "{:?}", asked.elapsed());
    let Heard::Announcement(order) = heard else { panic!("a gap") };
    let order = protocol::Envelope::<protocol::control::Control>::from_bytes(&order.body).unwrap().body;
    let protocol::control::Control::Stop { executions } = order else { panic!("{order:?}") };
    assert_eq!(executions, [(id, attempt.epoch)]);
}

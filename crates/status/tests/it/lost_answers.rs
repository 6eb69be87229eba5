//! A commit whose answer was lost is simply repeated; and the leader's memory follows at once, not at the next minute check.

use domain::{ExecutionId, State};
use protocol::{
    operate::{STOP_PATH, Stop, Stopped},
    read::Found,
    report::{Finish, REPORTS_PATH, Report, ReportRequest, ReportResponse, Standing},
    submission::SubmissionOutcome,
};
use testkit::wait;

use crate::{
    bench::{Attempt, Bench, FakeExecutor, WITHIN, now, post},
    wire::Wire,
};

async fn bench() -> (Bench, Wire) {
    let database = crate::bench::database().await;
    let wire = Wire::to(&database).await;
    (Bench::start_at(database, wire.url(), None).await, wire)
}

/// Reports; the answer to the commit is lost; reports again.
async fn report_twice(bench: &Bench, wire: &Wire, executor: &FakeExecutor, report: Report) -> Standing {
    let request = ReportRequest { executor_id: executor.id, reports: vec![report.clone()] };
    wire.lose_next_commit();
    post::<_, ReportResponse>(&bench.client, REPORTS_PATH, &request).await.unwrap_err();
    assert_eq!(wire.lost(), 1);
    executor.report(report).await.standing
}

async fn claimed(bench: &mut Bench, executor: &FakeExecutor) -> Attempt {
    let id = bench.submit().await;
    assert_eq!(bench.dispatched().await, [id]);
    Attempt::of(&executor.claim(id).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_is_queued_released_and_expires_all_the_same() {
    let (mut bench, wire) = bench().await;
    let mut submission = bench.submission();
    submission.queue_deadline_at = Some(now() + chrono::TimeDelta::milliseconds(1_500));
    let id = submission.execution_id;

    wire.lose_next_commit();
    bench.publish(vec![submission]).await;
    let replies = bench.replies().await;

    assert_eq!(wire.lost(), 1);
    assert!(matches!(&replies[0].1, SubmissionOutcome::Accepted { queue: Some(_) }), "{replies:?}");
    FakeExecutor::join(&bench).await;
    assert_eq!(bench.dispatched().await, [id]);
    wait::until(WITHIN, "the deadline", async || match bench.view(id).await.state {
        State::Expired => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finish_frees_its_slot_and_its_lease() {
    let (mut bench, wire) = bench().await;
    let executor = FakeExecutor::join(&bench).await;
    let attempt = claimed(&mut bench, &executor).await;

    let standing = report_twice(&bench, &wire, &executor, attempt.finish()).await;

    assert_eq!(standing, Standing::Over);
    bench.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_back_is_released_again() {
    let (mut bench, wire) = bench().await;
    let executor = FakeExecutor::join(&bench).await;
    let attempt = claimed(&mut bench, &executor).await;
    let back = Report { finish: Some(Finish::GivenBack), ..attempt.report() };

    let standing = report_twice(&bench, &wire, &executor, back).await;

    assert_eq!(standing, Standing::Lost);
    assert_eq!(bench.dispatched().await, [attempt.id]);
    assert!(executor.claim(attempt.id).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_parked_wakes() {
    let (mut bench, wire) = bench().await;
    let executor = FakeExecutor::join(&bench).await;
    let attempt = claimed(&mut bench, &executor).await;
    let until = now() + chrono::TimeDelta::milliseconds(300);
    let finish = Finish::Parked { reason: domain::WaitingReason::Provider, until };

    report_twice(&bench, &wire, &executor, Report { finish: Some(finish), ..attempt.report() }).await;

    assert_eq!(bench.dispatched().await, [attempt.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_nobody_heard_of_comes_back() {
    let (mut bench, wire) = bench().await;
    let (deaf, other) = (FakeExecutor::join(&bench).await, FakeExecutor::join(&bench).await);
    let id = bench.submit().await;
    bench.dispatched().await;

    wire.lose_next_commit();
    deaf.claim_fails(id).await;

    // It is offered again, and refused, for it is held: from then on its holder has to list it.
    let grant = wait::until(WITHIN, "the next grant", async || {
        deaf.renew(vec![]).await;
        other.renew(vec![]).await;
        other.claim(id).await.ok_or("refused")
    })
    .await;
    assert_eq!(grant.epoch, 3);
    bench.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_force_stop_frees_the_slot() {
    let (mut bench, wire) = bench().await;
    let executor = FakeExecutor::join(&bench).await;
    let attempt = claimed(&mut bench, &executor).await;
    let stop = Stop { subject: bench.subject(attempt.id), force: true, wait_ms: 0 };

    wire.lose_next_commit();
    post::<_, Found<Stopped>>(&bench.client, STOP_PATH, &stop).await.unwrap_err();
    let again: Found<Stopped> = post(&bench.client, STOP_PATH, &stop).await.unwrap();

    assert!(matches!(again, Found::Found(Stopped { terminal: true })), "{again:?}");
    bench.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_hands_the_execution_on() {
    let (mut bench, wire) = bench().await;
    let (dying, other) = (FakeExecutor::join(&bench).await, FakeExecutor::join(&bench).await);
    let attempt = claimed(&mut bench, &dying).await;
    let path = format!("/internal/v1/session?executor={}", dying.id);
    let session = bench.client.open(&path, WITHIN).await.unwrap();

    wire.lose_next_commit();
    drop(session);

    let id: ExecutionId = attempt.id;
    assert_eq!(bench.dispatched().await, [id]);
    assert_eq!(wire.lost(), 1);
    assert!(other.claim(id).await.is_some());
    bench.all_is_well().await;
}

//! Executors that die, lie or leave.

use domain::{ClaimId, EventBody, State, UnitKey};
use protocol::{
    claim::Held,
    report::{Finish, REPORTS_PATH, ReportRequest, ReportResponse, Standing},
};
use std::time::{Duration, Instant};

use crate::bench::{Attempt, Bench, FakeExecutor, WITHIN, post};

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_answer_was_lost_is_answered_again() {
    let mut bench = Bench::start().await;
    let (executor, other) = (FakeExecutor::join(&bench).await, FakeExecutor::join(&bench).await);
    let id = bench.submit().await;
    bench.dispatched().await;
    let claim = ClaimId::generate();

    let first = executor.claim_as(id, claim).await.unwrap();
    let again = executor.claim_as(id, claim).await.unwrap();

    assert_eq!((first.epoch, again.epoch), (1, 1));
    assert!(other.claim(id).await.is_none());
    assert!(executor.claim(id).await.is_none(), "another claim of the same executor is another attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_hands_the_execution_over_within_a_second() {
    let mut bench = Bench::start().await;
    let (dying, other) = (FakeExecutor::join(&bench).await, FakeExecutor::join(&bench).await);
    let id = bench.submit().await;
    bench.dispatched().await;
    let path = format!("/internal/v1/session?executor={}", dying.id);
    let session = bench.client.open(&path, WITHIN).await.unwrap();
    let mut attempt = Attempt::of(&dying.claim(id).await.unwrap());
    let mut report = attempt.unit("one", "kept");
    report.events = vec![attempt.event(EventBody::Started), attempt.delta("two", "half", 0)];
    dying.report(report).await;

    let died = Instant::now();
    drop(session);
    assert_eq!(bench.dispatched().await, [id]);
    let grant = other.claim(id).await.unwrap();

    assert!(died.elapsed() < Duration::from_secs(3), "{:?}", died.elapsed());
    assert_eq!(grant.finished, [UnitKey::node("one")]);
    assert_eq!(grant.open, [UnitKey::node("two")]);
    assert_eq!(dying.report(attempt.finish()).await.standing, Standing::Lost);
    let mut next = Attempt::of(&grant);
    let mut report = next.unit("two", "whole");
    report.events = vec![next.event(EventBody::Started)];
    other.report(report).await;
    other.report(next.finish()).await;
    let view = bench.view(id).await;
    assert_eq!((view.state, view.attempt), (State::Completed, 3));
    bench.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_says_goodbye_leaves_nothing_behind() {
    let mut bench = Bench::start().await;
    let (leaving, other) = (FakeExecutor::join(&bench).await, FakeExecutor::join(&bench).await);
    let id = bench.submit().await;
    bench.dispatched().await;
    leaving.claim(id).await.unwrap();

    leaving.goodbye().await;

    assert_eq!(bench.dispatched().await, [id]);
    assert!(other.claim(id).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_or_parked_comes_again() {
    let mut bench = Bench::start().await;
    let executor = FakeExecutor::join(&bench).await;
    let id = bench.submit().await;
    bench.dispatched().await;
    let attempt = Attempt::of(&executor.claim(id).await.unwrap());
    let mut report = attempt.report();
    report.finish = Some(Finish::GivenBack);
    assert_eq!(executor.report(report).await.standing, Standing::Over);

    assert_eq!(bench.dispatched().await, [id]);
    let attempt = Attempt::of(&executor.claim(id).await.unwrap());
    let mut report = attempt.report();
    let until = crate::bench::now() + chrono::TimeDelta::milliseconds(200);
    report.finish = Some(Finish::Parked { reason: domain::WaitingReason::Provider, until });
    executor.report(report).await;
    assert_eq!(bench.view(id).await.state, State::Waiting);

    assert_eq!(bench.dispatched().await, [id]);
    let attempt = Attempt::of(&executor.claim(id).await.unwrap());
    executor.report(attempt.finish()).await;
    assert_eq!(bench.view(id).await.state, State::Completed);
    bench.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_tells_what_is_lost_and_what_has_to_stop() {
    let mut bench = Bench::start().await;
    let executor = FakeExecutor::join(&bench).await;
    let id = bench.submit().await;
    bench.dispatched().await;
    let grant = executor.claim(id).await.unwrap();
    let held = Held { execution_id: id, epoch: grant.epoch };
    let stale = Held { execution_id: id, epoch: grant.epoch - 1 };

    let answer = executor.renew(vec![held, stale]).await;
    assert_eq!((answer.cancelling, answer.lost), (vec![], vec![stale]));

    let stop = protocol::operate::Stop { subject: bench.subject(id), force: false, wait_ms: 0 };
    let _: serde_json::Value = crate::bench::post(&bench.client, protocol::operate::STOP_PATH, &stop).await.unwrap();
    assert_eq!(executor.renew(vec![held]).await.cancelling, [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_can_never_be_stored_is_refused_by_name() {
    let mut bench = Bench::start().await;
    let executor = FakeExecutor::join(&bench).await;
    let id = bench.submit().await;
    bench.dispatched().await;
    let attempt = Attempt::of(&executor.claim(id).await.unwrap());
    let request =
        ReportRequest { executor_id: executor.id, reports: vec![attempt.unit("no\0de", "Postgres holds no NUL")] };

    let refused = post::<_, ReportResponse>(&bench.client, REPORTS_PATH, &request).await.unwrap_err();

    assert_eq!(refused.problem().unwrap().code, service::ProblemCode::InvalidRequest);
    assert_eq!(executor.report(attempt.finish()).await.standing, Standing::Over);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_execution_that_cannot_be_fenced_does_not_hold_up_the_others() {
    let mut bench = Bench::start().await;
    let dying = FakeExecutor::join(&bench).await;
    let path = format!("/internal/v1/session?executor={}", dying.id);
    let session = bench.client.open(&path, WITHIN).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = bench.submit().await;
        bench.dispatched().await;
        dying.claim(id).await.unwrap();
        ids.push(id);
    }
    let broken = ids.remove(1);
    let spoil = "UPDATE events SET records = 'unreadable' WHERE execution_id = $1::text::uuid";
    bench.psql().await.execute(spoil, &[&broken.uuid().to_string()]).await.unwrap();

    FakeExecutor::join(&bench).await;
    drop(session);

    let mut back = bench.dispatched().await;
    while back.len() < ids.len() {
        back.extend(bench.dispatched().await);
    }
    back.sort();
    assert_eq!(back, ids);
}

//! How an executor ends.

use std::time::Duration;

use protocol::report::Finish;
use service::Ended;
use testkit::wait;

use crate::{
    flows,
    ledger::State,
    world::{DEADLINE, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_executor_finishes_what_it_holds_takes_nothing_new_and_says_goodbye() {
    let world = World::new().await;
    let worker = world.worker();
    let id = world.submit(&flows::steps(&["sim/gate-drain", "sim/instant"]), &flows::input());
    world.at_gate("drain", 1).await;

    worker.shutdown.drain.cancel();
    let other = world.submit(&flows::steps(&["sim/instant"]), &flows::input());
    world.open_gate("drain").await;
    let ended = worker.shutdown.wait(DEADLINE).await;

    assert_eq!(ended, Ended::Drained);
    assert!(matches!(world.finish(id).await, Finish::Completed { .. }));
    assert_eq!(world.row(other, |row| row.state), State::Queued);
    world.status.ledger(|ledger| assert_eq!(ledger.goodbyes, [worker.handle.id]));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_grace_it_is_given_back_at_the_next_unit_boundary() {
    let world = World::new().await;
    let worker = world.worker_with(|config| config.drain_grace = Duration::ZERO);
    let id = world.submit(&flows::steps(&["sim/gate-boundary", "sim/instant"]), &flows::input());
    world.at_gate("boundary", 1).await;

    worker.shutdown.drain.cancel();
    world.open_gate("boundary").await;
    worker.shutdown.wait(DEADLINE).await;

    world.row(id, |row| {
        assert!(matches!(row.left[..], [Finish::GivenBack]), "{:?}", row.left);
        assert_eq!(row.completed.len(), 1);
    });
    let _next = world.worker();
    world.offer(&[id]);
    assert!(matches!(world.finish(id).await, Finish::Completed { .. }));
    assert_eq!(world.calls(id, "step1/0").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_gives_back_at_once_and_closes_open_calls() {
    let world = World::new().await;
    let worker = world.worker();
    let id = world.submit(&flows::steps(&["sim/gate-abort"]), &flows::input());
    world.at_gate("abort", 1).await;

    let ended = worker.shutdown.stop(Duration::ZERO).await;

    assert_eq!(ended, Ended::Aborted);
    assert!(world.row(id, |row| matches!(row.left[..], [Finish::GivenBack])));
    wait::until_true(DEADLINE, "the closed call", async || world.stats().await["closedByClient"] == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_drains_an_executor_without_ending_it() {
    let world = World::new().await;
    let worker = world.worker();
    wait::until_true(DEADLINE, "a renewal", async || world.status.ledger(|ledger| ledger.renewals > 0)).await;

    world.status.ledger(|ledger| ledger.drain = true);
    let before = world.status.ledger(|ledger| ledger.renewals);
    wait::until_true(DEADLINE, "two renewals", async || world.status.ledger(|ledger| ledger.renewals > before + 1))
        .await;
    let id = world.submit(&flows::steps(&["sim/instant"]), &flows::input());
    let now = world.status.ledger(|ledger| ledger.renewals);
    wait::until_true(DEADLINE, "two renewals", async || world.status.ledger(|ledger| ledger.renewals > now + 1)).await;

    assert_eq!(world.row(id, |row| row.state), State::Queued);
    assert!(world.status.sessions() > 0);
    assert_eq!(worker.shutdown.stop(DEADLINE).await, Ended::Drained);
}

//! Lost answers, gaps, and a leader that is away.

use domain::UnitKey;
use protocol::report::Finish;

use crate::{
    flows,
    ledger::State,
    world::{DEADLINE, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_answer_was_lost_is_repeated_under_the_same_id() {
    let world = World::new().await;
    world.status.lose_claims(2);
    let _worker = world.worker();

    let id = world.submit(&flows::steps(&["sim/instant"]), &flows::input());
    world.finish(id).await;

    world.status.ledger(|ledger| {
        assert_eq!(ledger.rows[&id].epoch, 1);
        assert_eq!(ledger.claims.values().copied().collect::<Vec<_>>(), [3]);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_whose_answers_were_lost_change_nothing() {
    let world = World::new().await;
    world.status.lose_reports(5);
    let _worker = world.worker();

    let id = world.submit(&flows::steps(&["sim/instant"; 3]), &flows::input());

    assert!(matches!(world.finish(id).await, Finish::Completed { .. }));
    assert_eq!(world.row(id, |row| row.completed.len()), 3);
    for step in ["step1/0", "step2/0", "step3/0"] {
        assert_eq!(world.calls(id, step).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_closed_by_sending_again() {
    let world = World::new().await;
    world.status.ledger(|ledger| ledger.gaps = 4);
    let _worker = world.worker();

    let id = world.submit(&flows::steps(&["sim/instant"; 3]), &flows::input());

    assert!(matches!(world.finish(id).await, Finish::Completed { .. }));
    world.row(id, |row| {
        assert_eq!(row.completed.len(), 3);
        assert_eq!(row.usage.len(), 3);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_leader_is_away_open_calls_go_on_and_nothing_is_lost() {
    let world = World::new().await;
    let _worker = world.worker();
    let id = world.submit(&flows::steps(&["sim/gate-away", "sim/instant"]), &flows::input());
    world.at_gate("away", 1).await;

    world.status.set_away(true);
    world.open_gate("away").await;
    testkit::wait::until_true(DEADLINE, "the end of the call", async || world.stats().await["open"] == 0).await;
    // The unit's report was refused several times over.
    world.status.until_more_reports_are_refused(5).await;
    assert_eq!(world.calls(id, "step2/0").await, 0, "its parent is not acknowledged");
    world.status.set_away(false);

    assert!(matches!(world.finish(id).await, Finish::Completed { .. }));
    assert_eq!(world.row(id, |row| (row.epoch, row.completed.len())), (1, 2));
    assert_eq!(world.calls(id, "step1/0").await, 1);
    world.row(id, |row| assert_eq!(row.shown()[&UnitKey::node("step1")], row.text(&UnitKey::node("step1"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_renewals_no_call_starts_when_the_lease_has_run_out() {
    let world = World::new().await;
    let worker = world.worker_with(|config| config.internal_address = Some(([127, 0, 0, 1], 0).into()));
    let id = world.submit(&flows::steps(&["sim/gate-lease", "sim/instant"]), &flows::input());
    world.at_gate("lease", 1).await;

    world.status.set_deaf(true);
    worker.until_its_lease_is_over().await;
    world.open_gate("lease").await;
    world.until("the open call's unit", id, |row| row.completed.len() == 1).await;
    assert_eq!(world.calls(id, "step2/0").await, 0);
    assert_eq!(world.row(id, |row| row.state), State::Held);
    world.status.set_deaf(false);

    assert!(matches!(world.finish(id).await, Finish::Completed { .. }));
}

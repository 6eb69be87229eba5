//! Fenced attempts, and attempts that continue where another one ended.

use domain::{EventBody, UnitKey};
use protocol::report::Finish;
use testkit::wait;

use crate::{
    flows,
    world::{DEADLINE, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_attempt_goes_silent_and_the_next_one_resumes_behind_its_units() {
    let world = World::new().await;
    let _worker = world.worker();
    let id = world.submit(&flows::steps(&["sim/instant", "sim/gate-fence", "sim/instant"]), &flows::input());
    world.at_gate("fence", 1).await;
    world.until("the text of step 2", id, |row| row.shown().contains_key(&UnitKey::node("step2"))).await;

    world.status.ledger(|ledger| ledger.take_back(id));
    wait::until_true(DEADLINE, "the closed call", async || world.stats().await["closedByClient"] == 1).await;
    world.until("its usage row", id, |row| row.usage.len() == 2).await;
    assert_eq!(world.row(id, |row| row.last.epoch()), 2, "nothing was written after the fence");
    world.open_gate("fence").await;
    world.offer(&[id]);

    assert!(matches!(world.finish(id).await, Finish::Completed { .. }));
    assert_eq!(world.calls(id, "step1/0").await, 1);
    assert_eq!(world.calls(id, "step2/0").await, 2);
    assert_eq!(world.status.unit_reads(), 1);
    world.row(id, |row| {
        assert_eq!(row.epoch, 3);
        let anew = |body: &EventBody| matches!(body, EventBody::OutputReset { reason, .. } if reason == "new_attempt");
        assert_eq!(row.bodies().iter().filter(|body| anew(body)).count(), 1);
        assert_eq!(row.shown()[&UnitKey::node("step2")], row.text(&UnitKey::node("step2")));
        let total = |body| if let EventBody::UsageUpdated { total, .. } = body { Some(total) } else { None };
        let totals: Vec<i64> = row.bodies().into_iter().filter_map(total).collect();
        let counted = |row: &protocol::report::UsageRow| row.input_tokens.unwrap_or(0) + row.output_tokens.unwrap_or(0);
        assert!(totals.is_sorted(), "totals never fall: {totals:?}");
        assert_eq!(totals.last(), Some(&row.usage.values().map(counted).sum()), "the aborted call is in them");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_resumes_in_its_middle() {
    let world = World::new().await;
    let _worker = world.worker();
    let id = world.submit(&flows::chapters("sim/gate-middle-after-2", 1), &flows::input());
    world.at_gate("middle", 1).await;

    world.status.ledger(|ledger| ledger.take_back(id));
    wait::until_true(DEADLINE, "the closed call", async || world.stats().await["closedByClient"] == 1).await;
    world.open_gate("middle").await;
    wait::until_true(DEADLINE, "the forgotten run", async || {
        world.offer(&[id]);
        world.row(id, |row| row.executor.is_some() || row.finish.is_some())
    })
    .await;
    world.finish(id).await;

    for (unit, calls) in [("chapters/0", 1), ("chapters/1", 1), ("chapters/2", 2)] {
        assert_eq!(world.calls(id, unit).await, calls, "{unit}");
    }
    assert_eq!(world.row(id, |row| (row.progress.units_done, row.progress.units_total)), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_executors_share_the_work_and_never_the_same_execution() {
    let world = World::new().await;
    let _workers = [world.worker_with(|config| config.slots = 2), world.worker_with(|config| config.slots = 2)];

    let flow = flows::steps(&["sim/gate-shared"]);
    let ids: Vec<_> = (0..4).map(|_| world.submit(&flow, &flows::input())).collect();
    world.at_gate("shared", 4).await;
    world.offer(&ids);
    world.open_gate("shared").await;

    for id in ids {
        assert!(matches!(world.finish(id).await, Finish::Completed { .. }));
        assert_eq!(world.calls(id, "step1/0").await, 1);
        assert_eq!(world.row(id, |row| row.epoch), 1);
    }
}

//! Providers that fail, answers that are wrong, deadlines.

use std::time::Duration;

use chrono::TimeDelta;
use domain::{FailureCode, UnitKey, WaitingReason};
use protocol::report::{CallOutcome, Finish};
use serde_json::{Value, json};
use service::Clock as _;
use testkit::wait;

use crate::{
    flows,
    world::{DEADLINE, Worker, World},
};

fn code(finish: &Finish) -> Option<FailureCode> {
    match finish {
        Finish::Failed { failure } => Some(failure.code),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_stream_is_tried_again_and_its_text_is_void() {
    let world = World::new().await;
    let _worker = world.worker();

    let id = world.submit(&flows::steps(&["sim/fault-F08-once"]), &flows::input());

    assert!(matches!(world.finish(id).await, Finish::Completed { .. }));
    assert_eq!(world.calls(id, "step1/0").await, 2);
    world.row(id, |row| {
        let key = UnitKey::node("step1");
        assert_eq!(row.shown()[&key], row.text(&key));
        assert!(row.names().contains(&"node.retrying") && row.names().contains(&"output.reset"));
        assert_eq!(row.usage.len(), 2);
        let failed = row.usage.values().find(|row| row.outcome == CallOutcome::Failed).unwrap();
        assert!(failed.output_tokens > Some(0), "what came is counted");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_wants_an_hour_parks_the_execution() {
    let world = World::new().await;
    let _worker = world.worker();

    let id = world.submit(&flows::steps(&["sim/fault-F24"]), &flows::input());
    world.until("the parking", id, |row| !row.left.is_empty()).await;

    let Finish::Parked { reason, until } = world.row(id, |row| row.left[0].clone()) else { panic!("not parked") };
    assert_eq!(reason, WaitingReason::Provider);
    assert!(until > service::SystemClock.now() + TimeDelta::minutes(55));
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_with_a_provider_ends_a_day_after_the_last_finished_unit() {
    let world = World::new().await;
    let _worker = world.worker();
    let stalled = service::SystemClock.now() - TimeDelta::minutes(23 * 60 + 30);

    let id = world.status.ledger(|ledger| {
        let id = ledger.submit(&flows::steps(&["sim/fault-F24"]), &flows::input(), None);
        ledger.rows.get_mut(&id).unwrap().progress_at = Some(stalled);
        id
    });
    world.offer(&[id]);

    assert_eq!(code(&world.finish(id).await), Some(FailureCode::ProviderBusy));
    assert!(world.row(id, |row| row.left.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_unit_renews_the_patience() {
    let world = World::new().await;
    let _worker = world.worker();
    let stalled = service::SystemClock.now() - TimeDelta::days(2);

    let id = world.status.ledger(|ledger| {
        let id = ledger.submit(&flows::steps(&["sim/instant", "sim/fault-F24"]), &flows::input(), None);
        ledger.rows.get_mut(&id).unwrap().progress_at = Some(stalled);
        id
    });
    world.offer(&[id]);

    world.until("the parking", id, |row| !row.left.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_in_place_while_another_node_works_and_parks_afterwards() {
    let world = World::new().await;
    let _worker = world.worker();

    let id = world.submit(&flows::fork("sim/fault-F24", "sim/gate-beside"), &flows::input());
    world.at_gate("beside", 1).await;
    world.until("the wait", id, |row| row.names().contains(&"node.retrying")).await;
    assert!(world.row(id, |row| row.left.is_empty()));
    world.open_gate("beside").await;
    world.until("the parking", id, |row| !row.left.is_empty()).await;

    assert_eq!(world.row(id, |row| row.completed.clone()), [UnitKey::node("right")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_account_fails_at_once_and_finished_units_are_kept() {
    let world = World::new().await;
    let _worker = world.worker();

    let id = world.submit(&flows::steps(&["sim/instant", "sim/fault-F05"]), &flows::input());
    let finish = world.finish(id).await;

    assert_eq!(code(&finish), Some(FailureCode::ProviderUnavailable));
    let Finish::Failed { failure } = finish else { panic!() };
    assert_eq!(failure.failed_node.as_deref(), Some("step2"));
    assert!(!failure.detail.contains("quota"), "{}", failure.detail);
    assert_eq!(world.row(id, |row| row.completed.clone()), [UnitKey::node("step1")]);
    assert!(world.row(id, |row| row.names().contains(&"node.failed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_provider_is_a_misconfigured_engine() {
    let world = World::new().await;
    let _worker = world.worker();

    let id = world.submit(&flows::steps(&["nobody/model"]), &flows::input());

    assert_eq!(code(&world.finish(id).await), Some(FailureCode::EngineMisconfigured));
}

/// A line of the metrics, as a scrape sees it.
fn metric(worker: &Worker, name: &str) -> u64 {
    let text = service::metrics::text(&worker.handle.registry);
    let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}: {text}"));
    value.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_was_forgiven_is_counted() {
    let world = World::new().await;
    let worker = world.worker();

    let id = world.submit(&flows::steps(&["sim/fault-F10"]), &flows::input());
    world.finish(id).await;

    let name = "lekhika_executor_provider_oddities_total{kind=\"malformed_event\",provider=\"sim\"}";
    assert_eq!(metric(&worker, name), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_stored_when_the_object_store_is_back() {
    let world = World::new().await;
    let worker = world.worker();
    let in_the_way = world.files.join("executions");
    std::fs::write(&in_the_way, "no folder").unwrap();

    let id = world.submit(&flows::steps(&["sim/instant"]), &flows::input());
    wait::until_true(DEADLINE, "a failure to store", async || {
        metric(&worker, "lekhika_executor_store_failures_total") > 0
    })
    .await;
    assert!(world.row(id, |row| row.finish.is_none()));
    std::fs::remove_file(&in_the_way).unwrap();

    let Finish::Completed { deliverables, .. } = world.finish(id).await else { panic!("not completed") };
    assert_eq!(deliverables.iter().filter(|file| file.object_key.is_some()).count(), 4);
    assert_eq!(world.calls(id, "step1/0").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_for_good_costs_each_file_and_not_the_text() {
    let world = World::new().await;
    std::fs::write(world.files.join("executions"), "no folder").unwrap();
    let _worker = world.worker_with(|config| config.store_patience = Duration::ZERO);

    let id = world.submit(&flows::steps(&["sim/instant"]), &flows::input());

    let Finish::Completed { result, deliverables } = world.finish(id).await else { panic!("not completed") };
    assert!(deliverables.iter().all(|file| file.error.is_some() && file.object_key.is_none()), "{deliverables:?}");
    let result: Value = serde_json::from_str(result.get()).unwrap();
    assert_eq!(result["formats"], json!([]));
    assert!(result["words"].as_u64() > Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_json_answer_is_repaired_once() {
    let world = World::new().await;
    let _worker = world.worker();
    let schema = json!({"type": "object", "required": ["fact"], "properties": {"fact": {"type": "string"}}});

    world.status.script(&["{\"fact\": 1}", "{\"fact\": \"They stand still.\"}"]);
    let id = world.submit(&flows::data("scripted/any", &schema), &flows::input());

    let Finish::Completed { result, .. } = world.finish(id).await else { panic!("not completed") };
    assert!(result.get().contains("They stand still."));
    world.row(id, |row| {
        assert_eq!(row.usage.len(), 2);
        assert_eq!(row.units[&UnitKey::node("facts")].output.get(), r#"{"fact":"They stand still."}"#);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_stays_wrong_fails_the_check() {
    let world = World::new().await;
    let _worker = world.worker();
    let schema = json!({"type": "object", "required": ["fact"], "properties": {"fact": {"type": "string"}}});

    world.status.script(&["no", "never"]);
    let id = world.submit(&flows::data("scripted/any", &schema), &flows::input());
    let finish = world.finish(id).await;

    assert_eq!(code(&finish), Some(FailureCode::OutputCheckFailed));
    assert_eq!(world.row(id, |row| row.usage.len()), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_closes_open_calls_and_fails_the_execution() {
    let world = World::new().await;
    let _worker = world.worker();

    let deadline = service::SystemClock.now() + TimeDelta::milliseconds(400);
    let id = world
        .status
        .ledger(|ledger| ledger.submit(&flows::steps(&["sim/gate-deadline"]), &flows::input(), Some(deadline)));
    world.offer(&[id]);
    let finish = world.finish(id).await;

    assert_eq!(code(&finish), Some(FailureCode::DeadlineExceeded));
    assert_eq!(world.stats().await["open"], 0);
    assert!(world.row(id, |row| row.names().iter().all(|name| *name != "execution.cancelling")));
    assert!(world.row(id, |row| row.units.values().all(|unit| !unit.complete) && !row.units.is_empty()));
}

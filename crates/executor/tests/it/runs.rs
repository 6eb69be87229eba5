//! Runs that nothing disturbs.

use domain::{EventBody, UnitKey};
use protocol::report::{CallOutcome, Finish, UsageSource};
use serde_json::{Value, json};

use crate::{flows, world::World};

#[tokio::test(flavor = "multi_thread")]
async fn three_steps_finish_with_their_units_events_usage_and_files() {
    let world = World::new().await;
    let _worker = world.worker();

    let id = world.submit(&flows::steps(&["sim/instant"; 3]), &flows::input());
    let Finish::Completed { result, deliverables } = world.finish(id).await else { panic!("not completed") };

    let result: Value = serde_json::from_str(result.get()).unwrap();
    assert_eq!(result["title"], "On herons");
    assert_eq!(result["formats"], json!(["md", "html", "txt", "json"]));
    for file in &deliverables {
        let stored = std::fs::read(world.files.join(file.object_key.as_deref().unwrap())).unwrap();
        assert_eq!(stored.len() as i64, file.bytes, "{}", file.name);
    }
    world.row(id, |row| {
        assert_eq!(row.completed, ["step1", "step2", "step3"].map(UnitKey::node));
        for (key, text) in row.shown() {
            assert_eq!(text, row.text(&key), "what is shown is what is stored");
        }
        assert_eq!(row.shown().len(), 3);
        assert_eq!(row.usage.len(), 3);
        let of_provider = |row: &protocol::report::UsageRow| {
            row.source == UsageSource::Provider && row.outcome == CallOutcome::Completed && row.output_tokens > Some(0)
        };
        assert!(row.usage.values().all(of_provider));
        assert_eq!((row.progress.nodes_done, row.progress.nodes_total), (4, 4));
        assert_eq!((row.progress.units_done, row.progress.units_total), (3, 3));
        assert!(row.progress.words > 0);
        let names = row.names();
        assert_eq!(names[0], "execution.started");
        let started = names.iter().filter(|name| **name == "node.started").count();
        let completed = names.iter().filter(|name| **name == "node.completed").count();
        assert_eq!((started, completed), (4, 4));
        let total: i64 = row.usage.values().map(|row| row.input_tokens.unwrap() + row.output_tokens.unwrap()).sum();
        let last = row.bodies().into_iter().rev().find_map(|body| match body {
            EventBody::UsageUpdated { total, .. } => Some(total),
            _ => None,
        });
        assert_eq!(last, Some(total));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn chapters_are_units_of_their_own_in_order() {
    let world = World::new().await;
    let _worker = world.worker();

    let id = world.submit(&flows::chapters("sim/instant", 1), &flows::input());
    world.finish(id).await;

    world.row(id, |row| {
        assert_eq!(row.completed, [0, 1, 2].map(|unit| UnitKey::item("chapters", unit)));
        let first: Value = serde_json::from_str(row.units[&UnitKey::item("chapters", 0)].output.get()).unwrap();
        assert_eq!(first["title"], "Part 1");
        let steps: Vec<(u32, u32)> = row
            .bodies()
            .into_iter()
            .filter_map(|body| match body {
                EventBody::NodeProgress { done, units, .. } => Some((done, units)),
                _ => None,
            })
            .collect();
        assert_eq!(steps, [(1, 3), (2, 3), (3, 3)]);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_chapters_are_open_at_the_same_time() {
    let world = World::new().await;
    let _worker = world.worker();

    let id = world.submit(&flows::chapters("sim/gate-together", 3), &flows::input());
    world.at_gate("together", 3).await;
    world.open_gate("together").await;
    let finish = world.finish(id).await;

    assert!(matches!(finish, Finish::Completed { .. }));
    let text = world.row(id, |row| row.text(&UnitKey::item("chapters", 1)));
    let Finish::Completed { result, .. } = finish else { panic!() };
    assert!(result.get().contains("Part 2"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn independent_nodes_run_at_the_same_time_and_one_after_the_other_when_told_so() {
    let world = World::new().await;
    let _worker = world.worker();

    let id = world.submit(&flows::fork("sim/gate-fork", "sim/gate-fork"), &flows::input());
    world.at_gate("fork", 2).await;
    let mut single = flows::fork("sim/gate-single", "sim/gate-single");
    single["maxParallel"] = json!(1);
    let other = world.submit(&single, &flows::input());
    world.at_gate("single", 1).await;
    world.open_gate("fork").await;
    assert!(matches!(world.finish(id).await, Finish::Completed { .. }));

    assert_eq!(world.calls(other, "right/0").await, 0);
    world.open_gate("single").await;
    assert!(matches!(world.finish(other).await, Finish::Completed { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_gets_text_while_it_is_written() {
    let world = World::new().await;
    world.status.ledger(|ledger| ledger.watched = true);
    let _worker = world.worker();

    let id = world.submit(&flows::steps(&["sim/gate-live"]), &flows::input());
    world.at_gate("live", 1).await;
    world.until("text in the log", id, |row| row.names().contains(&"output.delta")).await;
    world.open_gate("live").await;
    world.finish(id).await;

    world.row(id, |row| assert_eq!(row.shown()[&UnitKey::node("step1")], row.text(&UnitKey::node("step1"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nul_of_a_model_becomes_a_replacement_character() {
    let world = World::new().await;
    let _worker = world.worker();

    world.status.script(&["a\u{0}b"]);
    let id = world.submit(&flows::steps(&["scripted/any"]), &flows::input());
    world.finish(id).await;

    world.row(id, |row| {
        assert_eq!(row.text(&UnitKey::node("step1")), "a\u{fffd}b");
        assert_eq!(row.shown()[&UnitKey::node("step1")], "a\u{fffd}b");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_executions_share_requests_and_no_slot_is_exceeded() {
    let world = World::new().await;
    let worker = world.worker_with(|config| config.slots = 4);

    let flow = flows::steps(&["sim/instant"; 3]);
    let ids: Vec<_> =
        (0..100).map(|_| world.status.ledger(|ledger| ledger.submit(&flow, &flows::input(), None))).collect();
    for chunk in ids.chunks(8) {
        world.offer(chunk);
    }
    for id in &ids {
        assert!(matches!(world.finish(*id).await, Finish::Completed { .. }));
    }

    drop(worker);
}

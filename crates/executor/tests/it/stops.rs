//! Stops: the provider's connection is closed, and nothing starts afterwards.

use std::time::{Duration, Instant};

use domain::UnitKey;
use protocol::report::{CallOutcome, Finish, UsageSource};
use testkit::wait;

use crate::{
    flows,
    ledger::State,
    world::{DEADLINE, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_mid_stream_closes_the_connection_and_keeps_the_text() {
    let world = World::new().await;
    let _worker = world.worker();
    let id = world.submit(&flows::steps(&["sim/instant", "sim/gate-stop", "sim/instant"]), &flows::input());
    world.at_gate("stop", 1).await;
    world.until("the text before the gate", id, |row| row.shown().contains_key(&UnitKey::node("step2"))).await;

    let began = Instant::now();
    world.stop(id);
    wait::until_true(DEADLINE, "the closed connection", async || world.stats().await["closedByClient"] == 1).await;
    assert!(began.elapsed() < Duration::from_millis(250), "{:?}", began.elapsed());
    let Finish::Cancelled { acknowledged_at, upstream_closed_at, tokens } = world.finish(id).await else {
        panic!("not cancelled")
    };

    assert!(upstream_closed_at >= acknowledged_at && tokens > 0);
    assert_eq!(world.stats().await["open"], 0);
    assert_eq!(world.calls(id, "step3/0").await, 0);
    world.row(id, |row| {
        let partial = &row.units[&UnitKey::node("step2")];
        assert!(!partial.complete && row.text(&partial.key).len() > 3);
        assert_eq!(row.shown()[&partial.key], row.text(&partial.key));
        assert_eq!(row.names().iter().filter(|name| **name == "execution.cancelling").count(), 1);
        let aborted: Vec<_> = row.usage.values().filter(|row| row.outcome == CallOutcome::Aborted).collect();
        assert_eq!(aborted.len(), 1);
        assert_eq!(aborted[0].source, UsageSource::Estimated);
        assert!(aborted[0].input_tokens > Some(0) && aborted[0].output_tokens > Some(0));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_whose_message_is_lost_comes_with_the_next_renewal() {
    let world = World::new().await;
    let _worker = world.worker();
    let id = world.submit(&flows::fork("sim/gate-lost-stop", "sim/gate-lost-stop"), &flows::input());
    world.at_gate("lost-stop", 2).await;

    world.status.ledger(|ledger| ledger.rows.get_mut(&id).unwrap().state = State::Cancelling);

    assert!(matches!(world.finish(id).await, Finish::Cancelled { .. }));
    assert_eq!(world.stats().await["closedByClient"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_waiting_for_the_provider_ends_the_wait() {
    let world = World::new().await;
    let _worker = world.worker();
    let id = world.submit(&flows::steps(&["sim/fault-F04"]), &flows::input());
    world.until("the retry", id, |row| row.names().contains(&"node.retrying")).await;

    world.stop(id);

    assert!(matches!(world.finish(id).await, Finish::Cancelled { .. }));
    assert_eq!(world.calls(id, "step1/0").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_for_another_attempt_is_ignored() {
    let world = World::new().await;
    let _worker = world.worker();
    let id = world.submit(&flows::steps(&["sim/gate-other"]), &flows::input());
    world.at_gate("other", 1).await;

    let order = protocol::control::Control::Stop { executions: vec![(id, 99)] };
    let bytes = protocol::Envelope::new(order, None).to_bytes().unwrap();
    world.broker.announce(protocol::control::TOPIC, bytes.into());
    world.open_gate("other").await;

    assert!(matches!(world.finish(id).await, Finish::Completed { .. }));
}

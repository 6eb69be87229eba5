//! Executors that are cut off, and executors that leave in order.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::wait;

use crate::{
    events::{Seen, assert_whole},
    proxy::Proxy,
    system::{System, WITHIN},
};

/// Its reports are held back until its lease has moved, then they arrive, while the next attempt runs.
pub async fn a_partitioned_executor_changes_nothing(system: &System) {
    let wire = Proxy::to(system.address(&system.leader().await)).await;
    let parted = system.executor("parted", &[("LEKHIKA_STATUS_URLS", &format!("http://{}", wire.address))]).await;
    system.deploy("parted", &["sim/gate-parted-first", "sim/gate-parted-second"]).await;
    let id = system.submit("parted").await;
    system.held("parted-first", 1).await;
    let _other = system.executor("other", &[]).await;

    // Its call ends while it is cut off: there is a unit to report, and nobody hears of it.
    wire.cut();
    system.open("parted-first").await;
    // Its lease ran out: another holds it, and stands in the step after the one that the first has finished too.
    system.held("parted-second", 1).await;
    // Five tokens, then nothing: from now on the attempt that holds it is silent.
    wait::until(WITHIN, "the first words of step 2", async || {
        let log = system.log(&id).await;
        let text = log.as_array().unwrap().iter().any(|event| event["node"] == "step2" && event["text"].is_string());
        if text { Ok(()) } else { Err(log) }
    })
    .await;
    let (before, log) = (system.execution(&id).await, system.log(&id).await);
    assert_eq!(system.calls(&id).await, json!({"step1/0": 2, "step2/0": 1}));
    wire.mend();

    // Its report has arrived: what its call cost is counted, and it knows that it lost.
    let after = wait::until(WITHIN, "the usage of the stale attempt", async || {
        let now = system.execution(&id).await;
        if now["usage"]["total"].as_i64() > before["usage"]["total"].as_i64() { Ok(now) } else { Err(now) }
    })
    .await;
    wait::until(WITHIN, "an attempt that knows that it lost", async || {
        let lost = system.metric_at(&parted.address, r#"lekhika_executor_finishes_total{finish="lost"}"#).await;
        if lost == Some(1.0) { Ok(()) } else { Err(lost) }
    })
    .await;
    assert_eq!(system.log(&id).await, log);
    for field in ["status", "attempt", "progress", "lastSequence", "result"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    system.open("parted-second").await;
    assert_eq!(system.ended(&id).await["status"], "completed");
    assert_whole(&system.stream(&id, 0).await, "completed");
    assert_eq!(system.calls(&id).await, json!({"step1/0": 2, "step2/0": 1}));
}

/// SIGTERM in the middle of three executions.
pub async fn an_executor_that_is_told_to_end_gives_its_work_back(system: &System) {
    let grace = Duration::from_secs(2);
    let mut leaving = system.executor("leaving", &[("LEKHIKA_DRAIN_GRACE_MS", &grace.as_millis().to_string())]).await;
    // One that ends in time, one with a boundary every quarter of a second, one that never comes to its next boundary.
    system.deploy("short", &["sim/instant", "sim/tokens-20-rate-60"]).await;
    system.deploy("steps", &["sim/tokens-10-rate-40"; 14]).await;
    system.deploy("stuck", &["sim/instant", "sim/gate-stuck", "sim/instant"]).await;
    let steps = system.submit("steps").await;
    let stuck = system.submit("stuck").await;
    system.held("stuck", 1).await;
    let short = system.submit("short").await;
    wait::until(WITHIN, "the second step of the short one", async || {
        let calls = system.calls(&short).await;
        if calls["step2/0"] == 1 { Ok(()) } else { Err(calls) }
    })
    .await;
    let _staying = system.executor("staying", &[]).await;

    let asked = Instant::now();
    leaving.signal(Signal::SIGTERM);
    let how = leaving.end().await;
    let took = asked.elapsed();
    system.open("stuck").await;

    println!("the executor ended after {took:?}: {how}");
    assert!(how.success(), "{how}");
    assert!(took < grace + Duration::from_secs(2), "{took:?}");
    for (id, attempt, calls) in [(&short, 1, 1), (&steps, 2, 1), (&stuck, 2, 2)] {
        assert_eq!(system.ended(id).await["status"], "completed");
        let events = system.stream(id, 0).await;
        assert_whole(&events, "completed");
        assert_eq!(reasons(&events), vec!["given_back"; attempt - 1], "{id}");
        let called = system.calls(id).await;
        let most = called.as_object().unwrap().values().max_by_key(|value| value.as_i64()).unwrap();
        assert_eq!(most, &json!(calls), "{called}");
    }
    assert_eq!(system.calls(&stuck).await, json!({"step1/0": 1, "step2/0": 2, "step3/0": 1}));
}

/// Why an execution came back into the queue, each time.
fn reasons(events: &[Seen]) -> Vec<&str> {
    let queued = events.iter().filter(|event| event.name == "execution.queued");
    queued.filter_map(|event| event.data.get("reason").and_then(Value::as_str)).collect()
}

//! Stops: in mid-stream, queued, twice, and against completion.

use std::time::{Duration, Instant, SystemTime};

use chrono::DateTime;
use futures::StreamExt as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::wait;

use crate::{
    events::assert_whole,
    system::{System, WITHIN},
};

/// From the acceptance of a stop to the end of the provider's connection.
const CLOSED_WITHIN: u64 = 250;

#[tokio::test(flavor = "multi_thread")]
async fn stops_are_obeyed_wherever_they_meet_an_execution() {
    let system = System::start(&["--executors", "2", "--slots", "4"]).await;
    in_mid_stream(&system).await;
    by_force(&system).await;
    queued(&system).await;
    three_hundred_races_of_stop_and_completion_have_one_end_each(&system).await;
    system.all_is_well().await;
}

/// Submits an execution of `slow` and waits until text of its second step was shown.
async fn streaming(system: &System) -> String {
    system.deploy("slow", &["sim/instant", "sim/slow", "sim/instant"]).await;
    let id = system.submit("slow").await;
    wait::until(WITHIN, "text of step 2", async || {
        let log = system.log(&id).await;
        let text = log.as_array().unwrap().iter().any(|event| event["node"] == "step2" && event["text"].is_string());
        if text { Ok(()) } else { Err(log.as_array().map(Vec::len)) }
    })
    .await;
    id
}

/// Milliseconds from the stop's acceptance to the moment at which the simulator saw its connection closed.
async fn closed_after(system: &System, id: &str, receipt: &Value) -> u64 {
    let closed_at = wait::until(WITHIN, "the closed connection", async || {
        let times = system.times(id).await;
        times["closedAt"]["step2/0"][0].as_u64().ok_or(times)
    })
    .await;
    let requested_at = DateTime::parse_from_rfc3339(receipt["requestedAt"].as_str().unwrap()).unwrap();
    let took = closed_at.saturating_sub(u64::try_from(requested_at.timestamp_millis()).unwrap());
    println!("the simulator saw its connection closed {took} ms after the stop was accepted");
    took
}

async fn in_mid_stream(system: &System) {
    let id = streaming(system).await;

    system.post(&format!("/v1/executions/{id}/stop"), &json!({})).await;
    let stopped = system.ended(&id).await;

    let receipt = &stopped["stop"];
    assert!(closed_after(system, &id, receipt).await < CLOSED_WITHIN, "{receipt}");
    let stats = system.simulator(Method::GET, "/stats").await;
    assert_eq!((&stats["closedByClient"], &stats["open"]), (&json!(1), &json!(0)), "{stats}");
    assert_eq!(stopped["status"], "cancelled");
    assert_eq!(receipt["closedBy"], "executor");
    for field in ["requestedAt", "executorAckAt", "upstreamClosedAt", "finishedAt"] {
        assert!(receipt[field].is_string(), "{field}: {receipt}");
    }
    assert!(receipt["tokensAtStop"].as_i64().unwrap() > 0);
    let kept = &stopped["result"]["partial"]["step2"][0];
    assert_eq!(kept["complete"], false);
    assert!(!kept["output"].as_str().unwrap().is_empty());
    assert_eq!(system.calls(&id).await, json!({"step1/0": 1, "step2/0": 1}));
    // Twice is once.
    let again = system.post(&format!("/v1/executions/{id}/stop"), &json!({})).await;
    assert_eq!(again.status(), 200);
    assert_eq!(again.json::<Value>().await.unwrap()["lastSequence"], stopped["lastSequence"]);
    resumed(system, &id).await;
}

/// A fence asks nobody; the executor hears of it all the same, and closes.
async fn by_force(system: &System) {
    let id = streaming(system).await;

    let response = system.post(&format!("/v1/executions/{id}/stop?force=true"), &json!({})).await;

    assert_eq!(response.status(), 200);
    let stopped: Value = response.json().await.unwrap();
    let receipt = &stopped["stop"];
    assert_eq!((&stopped["status"], &receipt["closedBy"]), (&json!("cancelled"), &json!("fence")));
    assert_eq!(receipt["upstreamClosedAt"], Value::Null);
    assert!(closed_after(system, &id, receipt).await < CLOSED_WITHIN, "{receipt}");
    assert_eq!(system.calls(&id).await, json!({"step1/0": 1, "step2/0": 1}));
    assert_whole(&system.stream(&id, 0).await, "cancelled");
}

/// A resume pays for nothing again.
async fn resumed(system: &System, id: &str) {
    let response = system.post(&format!("/v1/executions/{id}/resume"), &json!({})).await;
    assert_eq!(response.status(), 202);
    let accepted: Value = response.json().await.unwrap();
    assert_eq!((&accepted["parentId"], &accepted["completedUnits"]), (&json!(id), &json!(1)));
    let child = accepted["executionId"].as_str().unwrap();
    wait::until(WITHIN, "step 2 of the resume", async || {
        let calls = system.calls(child).await;
        if calls["step2/0"] == 1 { Ok(()) } else { Err(calls) }
    })
    .await;
    assert_eq!(system.calls(child).await["step1/0"], Value::Null);
    system.post(&format!("/v1/executions/{child}/stop?force=true"), &json!({})).await;
    let ended = system.ended(child).await;
    assert_eq!((&ended["status"], &ended["stop"]["closedBy"]), (&json!("cancelled"), &json!("fence")));
}

/// All slots are taken: the next one waits, is stopped there, and never begins.
async fn queued(system: &System) {
    system.deploy("full", &["sim/gate-full"]).await;
    let mut running = Vec::new();
    for _ in 0..8 {
        running.push(system.submit("full").await);
    }
    system.held("full", 8).await;
    let id = system.submit("full").await;
    let waiting = system.execution(&id).await;
    assert_eq!((&waiting["status"], &waiting["queue"]["position"]), (&json!("queued"), &json!(1)), "{waiting:#}");

    let response = system.post(&format!("/v1/executions/{id}/stop"), &json!({})).await;
    assert_eq!(response.status(), 200, "nobody has to be asked");
    let stopped: Value = response.json().await.unwrap();
    system.open("full").await;

    assert_eq!((&stopped["status"], &stopped["stop"]["closedBy"]), (&json!("cancelled"), &json!("status")));
    for id in &running {
        assert_eq!(system.ended(id).await["status"], "completed");
    }
    assert_eq!(system.calls(&id).await, json!({}));
    let events = system.stream(&id, 0).await;
    assert_whole(&events, "cancelled");
    assert!(events.iter().all(|event| event.name != "execution.started"), "{events:?}");
}

async fn three_hundred_races_of_stop_and_completion_have_one_end_each(system: &System) {
    system.deploy("quick", &["sim/instant", "sim/instant"]).await;
    let length = usual_length(system).await;
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    println!("a run takes {length:?}; seed of the races: {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let race = async |pause: Duration| {
        let id = system.submit("quick").await;
        // Sleeps: the stops are spread over the length of a run, so that they meet it everywhere.
        tokio::time::sleep(pause).await;
        let response = system.post(&format!("/v1/executions/{id}/stop"), &json!({})).await;
        assert!(response.status().is_success());
        let end = system.ended(&id).await["status"].as_str().unwrap().to_owned();
        assert_whole(&system.stream(&id, 0).await, &end);
        end
    };
    let pauses: Vec<Duration> = (0..300).map(|_| length.mul_f64(random.random_range(0.0..1.2))).collect();

    let ends: Vec<String> = futures::stream::iter(pauses.into_iter().map(race)).buffer_unordered(8).collect().await;

    let of = |state: &str| ends.iter().filter(|end| *end == state).count();
    let (cancelled, completed) = (of("cancelled"), of("completed"));
    println!("{cancelled} cancelled, {completed} completed");
    assert_eq!(cancelled + completed, 300);
    assert!(cancelled > 0 && completed > 0, "stops must come before and after the end for this to be a race");
}

/// How long a run takes from its acceptance, in the middle of many.
async fn usual_length(system: &System) -> Duration {
    let run = async |_| {
        let id = system.submit("quick").await;
        let accepted = Instant::now();
        system.ended(&id).await;
        accepted.elapsed()
    };
    let mut lengths: Vec<Duration> = futures::stream::iter((0..40).map(run)).buffer_unordered(8).collect().await;
    lengths.sort();
    lengths[lengths.len() / 2]
}

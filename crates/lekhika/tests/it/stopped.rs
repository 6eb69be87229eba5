//! Stops: in mid-stream, queued, twice, and against completion.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::wait;

use crate::system::{System, WITHIN};

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_closes_the_providers_connection_and_nothing_starts_afterwards() {
    let system = System::start(&["--executors", "1"]).await;
    system.deploy("slow", &["sim/instant", "sim/slow", "sim/instant"]).await;
    let id = system.submit("slow").await;
    wait::until(WITHIN, "text of step 2", async || {
        let events = system.get(&format!("/v1/executions/{id}/events")).await;
        let text = events["data"]
            .as_array()
            .unwrap()
            .iter()
            .any(|event| event["node"] == "step2" && event["text"].is_string());
        if text { Ok(()) } else { Err(events["data"].as_array().map(Vec::len)) }
    })
    .await;

    let asked = Instant::now();
    let response = system.post(&format!("/v1/executions/{id}/stop"), &json!({})).await;
    let status = response.status();
    wait::until(WITHIN, "the closed connection", async || {
        let stats = system.simulator(Method::GET, "/stats").await;
        if stats["closedByClient"] == 1 && stats["open"] == 0 { Ok(()) } else { Err(stats) }
    })
    .await;
    println!(
        "the simulator saw its connection closed {:?} after the stop was asked for (answer {status})",
        asked.elapsed()
    );
    assert!(asked.elapsed() < Duration::from_secs(2));

    let stopped = system.ended(&id).await;
    assert_eq!(stopped["status"], "cancelled");
    let receipt = &stopped["stop"];
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
    resumed(&system, &id).await;
    system.all_is_well().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_races_of_stop_and_completion_have_one_end_each() {
    let system = System::start(&[]).await;
    system.deploy("quick", &["sim/instant", "sim/instant"]).await;
    let race = |number: u64| {
        let system = &system;
        async move {
            let id = system.submit("quick").await;
            // Spread over the few milliseconds that a run takes: the races differ, no assertion depends on how.
            tokio::time::sleep(Duration::from_micros(number * 131 % 30_000)).await;
            let response = system.post(&format!("/v1/executions/{id}/stop"), &json!({})).await;
            assert!(response.status().is_success());
            let end = system.ended(&id).await["status"].as_str().unwrap().to_owned();
            let events = system.stream(&id, 0).await;
            let ends: Vec<&str> = events
                .iter()
                .map(|event| event.name.as_str())
                .filter(|name| domain::event::is_terminal_name(name))
                .collect();
            assert_eq!(ends, [format!("execution.{end}")]);
            end
        }
    };

    let ends: Vec<String> = futures::stream::iter(0..300).map(race).buffer_unordered(8).collect().await;

    let cancelled = ends.iter().filter(|end| *end == "cancelled").count();
    let completed = ends.iter().filter(|end| *end == "completed").count();
    println!("{cancelled} cancelled, {completed} completed");
    assert_eq!(cancelled + completed, 300);
    system.all_is_well().await;
}

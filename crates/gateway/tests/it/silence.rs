//! Status is silent, or breaks off, while clients ask.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::{
    proxy::Fault,
    system::{System, body, problem},
};

#[tokio::test(flavor = "multi_thread")]
async fn submissions_are_taken_at_once_while_nobody_answers_for_the_caches() {
    let system = System::start().await;
    system.submit().await;
    // Sleeps: the age of what is remembered is what is tested.
    tokio::time::sleep(Duration::from_millis(5_100)).await;
    system.proxy.set(Fault::Silent);

    let started = Instant::now();
    system.submit().await;
    let first = started.elapsed();
    system.submit().await;
    let both = started.elapsed();

    assert!(first < Duration::from_secs(2), "{first:?}");
    assert!(both - first < Duration::from_millis(500), "{both:?}");
    // What was never asked has nobody to answer it.
    let unknown = system.post("/v1/engines/other/execute", &json!({"input": {}})).await;
    assert_eq!(problem(unknown, 503, "unavailable").await["retryable"], true);
    system.proxy.set(Fault::None);
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_execution_is_answered_with_its_id_whatever_fails_then() {
    let system = System::start().await;
    system.submit().await;
    system.proxy.set(Fault::Breaks("/internal/v1/executions/get"));

    let request = system.request(Method::POST, "/v1/engines/letter/execute").header("prefer", "Wait=10");
    let answer = request.json(&json!({"input": {"topic": "bees"}, "queueTtlMs": 100})).send().await.unwrap();

    assert_eq!(answer.status(), 202);
    let accepted = body(answer).await;
    system.proxy.set(Fault::None);
    let path = format!("/v1/executions/{}", accepted["executionId"].as_str().unwrap());
    assert_eq!(body(system.get(&path).await).await["status"], "expired");
    system.end().await;
}

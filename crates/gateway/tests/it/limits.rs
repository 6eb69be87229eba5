//! 429: too many requests, too many executions.

use reqwest::Method;
use serde_json::json;

use crate::system::{System, body, problem};

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_what_is_left_of_the_requests() {
    let system = System::start().await;
    let key = system.limited("slow", json!({"maxPriority": "normal", "requestsPerMinute": 3})).await;
    let me = || system.with_key(&key, Method::GET, "/v1/me").send();

    for left in [2, 1, 0] {
        let answer = me().await.unwrap();
        assert_eq!(answer.headers()["ratelimit-policy"], "\"requests\";q=3;w=60");
        let state = answer.headers()["ratelimit"].to_str().unwrap();
        assert!(state.starts_with(&format!("\"requests\";r={left};t=")), "{state}");
    }
    let refused = me().await.unwrap();
    assert!(refused.headers()["ratelimit"].to_str().unwrap().starts_with("\"requests\";r=0;"));
    let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=20).contains(&seconds), "{seconds}");
    let refused = problem(refused, 429, "rate_limited").await;
    assert!(refused["retryAfterMs"].as_u64().unwrap() > 0);
    // Nobody else is limited by it.
    assert!(!system.get("/v1/me").await.headers().contains_key("ratelimit"));
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_names_what_it_keeps() {
    let system = System::start().await;
    let key = system.limited("small", json!({"maxPriority": "normal", "maxQueued": 1})).await;
    let submit = || {
        let request = system.with_key(&key, Method::POST, "/v1/engines/letter/execute");
        request.json(&json!({"input": {"topic": "bees"}})).send()
    };
    assert_eq!(submit().await.unwrap().status(), 202);

    let refused = submit().await.unwrap();

    assert!(refused.headers().contains_key("retry-after"));
    let refused = problem(refused, 429, "queue_full").await;
    let path = format!("/v1/executions/{}", refused["executionId"].as_str().unwrap());
    let kept = body(system.with_key(&key, Method::GET, &path).send().await.unwrap()).await;
    assert_eq!((&kept["status"], &kept["error"]["code"]), (&json!("failed"), &json!("queue_full")));
    assert_eq!((&kept["error"]["resumable"], &kept["error"]["tokensSaved"]), (&json!(true), &json!(0)));
    system.end().await;
}

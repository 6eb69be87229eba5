//! Restart and resume are submissions like any other.

use reqwest::Method;
use serde_json::json;

use crate::system::{System, body, problem};

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_restart_leaves_the_running_one_alone() {
    let system = System::start().await;
    let key = system.limited("small", json!({"maxPriority": "normal", "maxQueued": 1})).await;
    let send = |method: Method, path: String| system.with_key(&key, method, &path);
    let first = send(Method::POST, "/v1/engines/letter/execute".into()).json(&json!({"input": {"topic": "bees"}}));
    let id = body(first.send().await.unwrap()).await["executionId"].as_str().unwrap().to_owned();

    let refused = send(Method::POST, format!("/v1/executions/{id}/restart")).send().await.unwrap();

    problem(refused, 429, "queue_full").await;
    let left = body(send(Method::GET, format!("/v1/executions/{id}")).send().await.unwrap()).await;
    assert_eq!(left["status"], "queued");
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_off_or_taken_away_takes_no_restart() {
    let system = System::start().await;
    let id = system.submit().await;
    system.post(&format!("/v1/executions/{id}/stop"), &json!({})).await;
    let again = async |way: &str| system.post(&format!("/v1/executions/{id}/{way}"), &json!({})).await;

    system.sql("UPDATE user_engines SET enabled = false").await;
    problem(again("restart").await, 403, "engine_disabled").await;
    problem(again("resume").await, 403, "engine_disabled").await;
    system.sql("DELETE FROM user_engines").await;
    testkit::wait::until_true(crate::system::WITHIN, "the assignment is gone", async || {
        again("restart").await.status() == 404
    })
    .await;

    problem(again("resume").await, 404, "not_found").await;
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_has_no_more_priority_than_the_level_allows_now() {
    let system = System::start().await;
    let input = json!({"input": {"topic": "bees"}, "priority": "high"});
    let id = body(system.post("/v1/engines/letter/execute", &input).await).await["executionId"].clone();
    let id = id.as_str().unwrap();
    system.do_admin("/levels", json!({"name": "test", "weight": 1.0, "maxPriority": "low"})).await;
    testkit::wait::until_true(crate::system::WITHIN, "the new level", async || {
        body(system.get("/v1/me").await).await["level"]["maxPriority"] == "low"
    })
    .await;

    let restarted = body(system.post(&format!("/v1/executions/{id}/restart"), &json!({})).await).await;

    let path = format!("/v1/executions/{}", restarted["executionId"].as_str().unwrap());
    assert_eq!(body(system.get(&path).await).await["priority"], "low");
    assert_eq!(restarted["stopped"], true);
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_resume_is_refused_while_the_first_is_unfinished() {
    let system = System::start().await;
    let id = system.submit().await;
    system.post(&format!("/v1/executions/{id}/stop"), &json!({})).await;
    let resume = |query: &str, key: &str| {
        let request = system.request(Method::POST, &format!("/v1/executions/{id}/resume{query}"));
        request.header("idempotency-key", key.to_owned()).send()
    };
    let first = body(resume("", "one").await.unwrap()).await;

    let repeated = resume("", "one").await.unwrap();
    assert_eq!(repeated.headers()["idempotency-replayed"], "true");
    assert_eq!(body(repeated).await["executionId"], first["executionId"]);
    let second = problem(resume("", "two").await.unwrap(), 409, "not_resumable").await;
    assert_eq!(second["executionId"], first["executionId"]);
    assert_eq!(resume("?parallel=true", "two").await.unwrap().status(), 202);

    problem(resume("?parallel=perhaps", "three").await.unwrap(), 400, "invalid_request").await;
    system.end().await;
}

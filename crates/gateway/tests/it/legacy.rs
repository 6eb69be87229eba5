//! The paths of the first documents.

use reqwest::Method;
use serde_json::json;

use crate::system::{System, body, problem};

#[tokio::test(flavor = "multi_thread")]
async fn every_old_path_still_works() {
    let system = System::start().await;

    let list = system.get("/engines-api/list").await;
    assert!(list.headers().contains_key("deprecation"));
    assert_eq!(body(list).await["engines"][0]["name"], "letter");
    let engine = body(system.get("/engines-api/letter").await).await;
    assert_eq!(engine["inputSchema"]["type"], "object");
    let accepted = system
        .http
        .post(format!("{}/engines-api/letter/execute", system.url))
        .header("x-api-key", &system.key)
        .header("apikey", "ignored")
        .json(&json!({"userInput": {"topic": "bees"}}))
        .send()
        .await
        .unwrap();
    assert_eq!(accepted.status(), 202);
    let accepted = body(accepted).await;
    let id = accepted["executionId"].as_str().unwrap();
    assert!(accepted["statusUrl"].as_str().unwrap().contains("/engines-api/executions/"));

    assert_eq!(body(system.get(&format!("/engines-api/executions/{id}")).await).await["status"], "queued");
    let stopped = system.post(&format!("/engines-api/stop/{id}"), &json!({})).await;
    assert_eq!(body(stopped).await["status"], "cancelled");
    let resumed = system.post("/engines-api/letter/resume", &json!({"executionId": id})).await;
    assert_eq!(resumed.status(), 202);
    let expired = system
        .request(Method::POST, "/engines-api/letter/execute")
        .header("prefer", "wait=10")
        .json(&json!({"userInput": {"topic": "bees"}, "queueTtlMs": 100}))
        .send()
        .await
        .unwrap();
    let expired = body(expired).await["executionId"].as_str().unwrap().to_owned();
    assert_eq!(body(system.get(&format!("/engines-api/executions/{expired}")).await).await["status"], "failed");
    let stats = body(system.get("/engines-api/stats").await).await;
    assert_eq!((&stats["total"], &stats["failed"], &stats["cancelled"]), (&json!(3), &json!(1), &json!(1)));
    let all = body(system.get("/engines-api/executions").await).await;
    assert_eq!(all["executions"].as_array().unwrap().len(), 3);
    problem(system.get("/engines-api/nothing/at/all").await, 404, "not_found").await;
    system.end().await;
}

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
    for (wrong, status, pointer) in [
        (json!({}), 422, "/executionId"),
        (json!({"executionId": 7}), 422, "/executionId"),
        (json!({"executionId": id, "paralel": true}), 400, "/paralel"),
    ] {
        let refused = system.post("/engines-api/letter/resume", &wrong).await;
        let code = if status == 422 { "invalid_input" } else { "invalid_request" };
        assert_eq!(problem(refused, status, code).await["errors"][0]["pointer"], pointer);
    }
    let resumed = system.post("/engines-api/letter/resume", &json!({"executionId": id})).await;
    assert_eq!(resumed.status(), 202);
    let expired = system
        .request(Method::POST, "/engines-api/letter/execute")
        .header("prefer", "wait=10")
        .json(&json!({"userInput": {"topic": "bees"}, "queueTtlMs": 100}))
        .send()
        .await
        .unwrap();
    // The answer to `Prefer: wait` has the old words too.
    let waited = body(expired).await;
    assert_eq!(waited["status"], "failed");
    let expired = waited["executionId"].as_str().unwrap().to_owned();
    let read = body(system.get(&format!("/engines-api/executions/{expired}")).await).await;
    assert_eq!(read["status"], "failed");
    assert!(read["completedAt"].is_string(), "{read:#}");
    let stats = body(system.get("/engines-api/stats").await).await;
    assert_eq!((&stats["total"], &stats["failed"], &stats["cancelled"]), (&json!(3), &json!(1), &json!(1)));
    let all = body(system.get("/engines-api/executions").await).await;
    assert_eq!(all["executions"].as_array().unwrap().len(), 3);
    problem(system.get("/engines-api/nothing/at/all").await, 404, "not_found").await;
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_then_are_shown_and_filtered_by() {
    let system = System::start().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(system.submit().await);
    }
    let uuid = |at: usize| uuid::Uuid::parse_str(&ids[at][5..]).unwrap();
    system
        .sql(&format!(
            "UPDATE executions SET state = 2, eligible_at = now() + interval '1 hour', waiting_reason = 1 WHERE id = '{}'; \
             UPDATE executions SET state = 3, executor_id = id WHERE id = '{}'; \
             UPDATE executions SET state = 7, finished_at = now() WHERE id = '{}'; \
             UPDATE executions SET state = 4, finished_at = now() WHERE id = '{}'; \
             INSERT INTO execution_results (execution_id, result) VALUES ('{}', '{{\"words\":7}}')",
            uuid(0),
            uuid(1),
            uuid(2),
            uuid(3),
            uuid(3)
        ))
        .await;

    for (at, word) in ["processing", "processing", "failed", "completed"].into_iter().enumerate() {
        let read = body(system.get(&format!("/engines-api/executions/{}", ids[at])).await).await;
        assert_eq!(read["status"], word);
        let list = body(system.get(&format!("/engines-api/executions?status={word}")).await).await;
        let found = list["executions"].as_array().unwrap();
        assert!(found.iter().any(|one| one["executionId"] == ids[at].as_str()), "{word}: {list:#}");
        assert!(found.iter().all(|one| one["status"] == word), "{word}: {list:#}");
    }
    let completed = body(system.get(&format!("/engines-api/executions/{}", ids[3])).await).await;
    assert_eq!(completed["result"], json!({"words": 7}));
    assert!(completed["completedAt"].is_string());
    let new = body(system.get("/v1/executions?status=processing").await).await;
    assert_eq!(new["data"], json!([]));
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_as_the_request_named_it() {
    let system = System::start().await;

    let wrong = system.post("/engines-api/letter/execute", &json!({"userInput": {"topic": 7}})).await;
    assert_eq!(problem(wrong, 422, "invalid_input").await["errors"][0]["pointer"], "/userInput/topic");
    let nul = system.post("/engines-api/letter/execute", &json!({"userInput": {"topic": "a\u{0}b"}})).await;
    assert_eq!(problem(nul, 422, "invalid_input").await["errors"][0]["pointer"], "/userInput/topic");
    system.end().await;
}

//! Submitting, reading, listing, stopping, starting again.

use reqwest::Method;
use serde_json::{Value, json};

use crate::system::{System, body, problem};

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_is_answered_with_its_place_and_can_be_read() {
    let system = System::start().await;

    let response = system
        .post(
            "/v1/engines/letter/execute",
            &json!({"input": {"topic": "bees", "words": 40}, "labels": {"team": "a"}, "priority": "high"}),
        )
        .await;
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["retry-after"], "2");
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let accepted = body(response).await;
    assert_eq!(accepted["status"], "queued");
    assert_eq!(accepted["queue"]["position"], 1);
    assert_eq!(accepted["statusUrl"], location);

    let id = accepted["executionId"].as_str().unwrap();
    let read = body(system.get(&format!("/v1/executions/{id}")).await).await;
    assert_eq!(
        (&read["status"], &read["engineName"], &read["labels"]["team"]),
        (&json!("queued"), &json!("letter"), &json!("a"))
    );
    assert_eq!(read["usage"], json!({"input": 0, "output": 0, "total": 0, "kind": "included"}));
    let hyphenated = format!("exec_{}", uuid::Uuid::parse_str(&id[5..]).unwrap().hyphenated());
    assert_eq!(system.get(&format!("/v1/executions/{hyphenated}")).await.status(), 200);
    let queue = body(system.get(&format!("/v1/executions/{id}/queue")).await).await;
    assert_eq!(queue["queue"]["ahead"], 0);
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_a_queued_execution_is_its_end_and_repeatable() {
    let system = System::start().await;
    let id = system.submit().await;
    let misplaced = system.post(&format!("/v1/executions/{id}/stop"), &json!({"force": true})).await;
    assert_eq!(problem(misplaced, 400, "invalid_request").await["errors"][0]["pointer"], "/force");

    for _ in 0..2 {
        let response = system.post(&format!("/v1/executions/{id}/stop"), &json!({})).await;
        assert_eq!(response.status(), 200);
        let stopped = body(response).await;
        assert_eq!(stopped["status"], "cancelled");
        assert_eq!(stopped["stop"]["closedBy"], "status");
    }

    let first = system.get(&format!("/v1/executions/{id}")).await;
    let tag = first.headers()["etag"].clone();
    let again = system.request(Method::GET, &format!("/v1/executions/{id}")).header("if-none-match", tag);
    assert_eq!(again.send().await.unwrap().status(), 304);
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_makes_a_repeated_request_safe() {
    let system = System::start().await;
    let send = |body: Value| {
        let request = system.request(Method::POST, "/v1/engines/letter/execute");
        request.header("idempotency-key", "\"order-7\"").json(&body).send()
    };
    let first = send(json!({"input": {"topic": "bees"}})).await.unwrap();
    assert_eq!(first.status(), 202);
    let first = body(first).await;

    let again = send(json!({"input": {"topic": "bees"}})).await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(body(again).await["executionId"], first["executionId"]);
    problem(send(json!({"input": {"topic": "wasps"}})).await.unwrap(), 422, "idempotency_mismatch").await;

    let list = body(system.get("/v1/executions").await).await;
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_answered_as_then_whatever_would_be_refused_now() {
    let system = System::start().await;
    let send = |path: &str, key: &str, body: Value| {
        system.request(Method::POST, path).header("idempotency-key", key).json(&body).send()
    };
    let order = json!({"input": {"topic": "bees"}, "priority": "high"});
    let execute = "/v1/engines/letter/execute";
    let first = body(send(execute, "order-8", order.clone()).await.unwrap()).await;
    let restart = format!("/v1/executions/{}/restart", first["executionId"].as_str().unwrap());
    let restarted = body(send(&restart, "again-8", json!({})).await.unwrap()).await;
    system.do_admin("/levels", json!({"name": "test", "weight": 1.0, "maxPriority": "low"})).await;
    testkit::wait::until_true(crate::system::WITHIN, "the new level", async || {
        body(system.get("/v1/me").await).await["level"]["maxPriority"] == "low"
    })
    .await;

    let replayed = send(execute, "order-8", order.clone()).await.unwrap();
    assert_eq!(replayed.headers()["idempotency-replayed"], "true");
    assert_eq!(body(replayed).await["executionId"], first["executionId"]);
    problem(send(execute, "order-9", order.clone()).await.unwrap(), 422, "invalid_input").await;
    problem(send(execute, "order-8", json!({"input": {}})).await.unwrap(), 422, "invalid_input").await;
    system.do_admin("/engines/letter/disable", json!({})).await;
    testkit::wait::until_true(crate::system::WITHIN, "the engine is off", async || {
        let now = json!({"input": {"topic": "bees"}, "priority": "low"});
        system.post(execute, &now).await.status() == 403
    })
    .await;

    for (path, key, order, was) in [(execute, "order-8", order, &first), (&restart, "again-8", json!({}), &restarted)] {
        let replayed = send(path, key, order).await.unwrap();
        assert_eq!(replayed.status(), 202);
        assert_eq!(body(replayed).await["executionId"], was["executionId"]);
    }
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_newest_first_and_filtered() {
    let system = System::start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(system.submit().await);
    }
    system.post(&format!("/v1/executions/{}/stop", ids[0]), &json!({})).await;

    let first = system.get("/v1/executions?pageSize=2").await;
    assert!(first.headers()["link"].to_str().unwrap().contains("rel=\"next\""));
    let first = body(first).await;
    let token = first["nextPageToken"].as_str().unwrap();
    let second = body(system.get(&format!("/v1/executions?pageSize=2&pageToken={token}")).await).await;
    let listed: Vec<&str> = [&first, &second]
        .iter()
        .flat_map(|page| page["data"].as_array().unwrap())
        .map(|execution| execution["executionId"].as_str().unwrap())
        .collect();
    assert_eq!(listed, [ids[2].as_str(), &ids[1], &ids[0]]);
    assert_eq!(second["nextPageToken"], Value::Null);

    let cancelled = body(system.get("/v1/executions?status=cancelled,failed").await).await;
    assert_eq!(cancelled["data"].as_array().unwrap().len(), 1);
    problem(system.get(&format!("/v1/executions?status=queued&pageToken={token}")).await, 400, "invalid_request").await;
    problem(system.get("/v1/executions?status=sleeping").await, 400, "invalid_request").await;
    let engine = body(system.get("/v1/engines/letter").await).await;
    for engine in ["letter", system.engine.as_str(), engine["userEngineId"].as_str().unwrap()] {
        let found = body(system.get(&format!("/v1/executions?engine={engine}")).await).await;
        assert_eq!(found["data"].as_array().unwrap().len(), 3, "{engine}");
    }
    problem(system.get("/v1/executions?engine=unknown").await, 400, "invalid_request").await;
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_and_resume_make_children() {
    let system = System::start().await;
    let id = system.submit().await;

    problem(system.post(&format!("/v1/executions/{id}/resume"), &json!({})).await, 409, "not_resumable").await;
    let restarted = system.post(&format!("/v1/executions/{id}/restart"), &json!({})).await;
    assert_eq!(restarted.status(), 202);
    let restarted = body(restarted).await;
    assert_eq!((&restarted["parentId"], &restarted["stopped"]), (&json!(id), &json!(true)));
    let child = restarted["executionId"].as_str().unwrap();
    system.post(&format!("/v1/executions/{child}/stop"), &json!({})).await;
    let resumed = system.post(&format!("/v1/executions/{id}/resume"), &json!({})).await;
    assert_eq!(resumed.status(), 202);
    let resumed = body(resumed).await;
    assert_eq!(resumed["completedUnits"], 0);

    let child = body(system.get(&format!("/v1/executions/{}", resumed["executionId"].as_str().unwrap())).await).await;
    assert_eq!(child["parentId"], json!(id));
    let edited = system.post(&format!("/v1/executions/{id}/restart"), &json!({"input": {"topic": 7}})).await;
    problem(edited, 422, "invalid_input").await;
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_what_is_anothers() {
    let system = System::start().await;
    let id = system.submit().await;
    let (_, other) = system.user("eve").await;

    for (method, path) in [
        (Method::GET, format!("/v1/executions/{id}")),
        (Method::GET, format!("/v1/executions/{id}/queue")),
        (Method::GET, format!("/v1/executions/{id}/events")),
        (Method::GET, format!("/v1/executions/{id}/deliverables")),
        (Method::POST, format!("/v1/executions/{id}/stop")),
        (Method::POST, format!("/v1/executions/{id}/restart")),
        (Method::POST, format!("/v1/executions/{id}/resume")),
        (Method::GET, "/v1/engines/letter".to_owned()),
        (Method::GET, format!("/v1/engines/{}", system.engine)),
    ] {
        let response = system.http.request(method, format!("{}{path}", system.url)).bearer_auth(&other);
        problem(response.send().await.unwrap(), 404, "not_found").await;
    }
    assert_eq!(body(system.get(&format!("/v1/executions/{id}")).await).await["status"], "queued");
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_only_runs_nothing_and_wait_answers_with_the_end() {
    let system = System::start().await;

    let valid =
        system.post("/v1/engines/letter/execute", &json!({"input": {"topic": "bees"}, "validateOnly": true})).await;
    assert_eq!(valid.status(), 200);
    assert_eq!(body(valid).await["valid"], true);
    assert_eq!(body(system.get("/v1/executions").await).await["data"], json!([]));

    // Nobody runs it: it expires while we wait, on the event stream.
    let waited = system
        .request(Method::POST, "/v1/engines/letter/execute")
        .header("prefer", "wait=10")
        .json(&json!({"input": {"topic": "bees"}, "queueTtlMs": 200}))
        .send()
        .await
        .unwrap();
    assert_eq!(waited.status(), 200);
    assert_eq!(waited.headers()["preference-applied"], "wait=10");
    assert_eq!(body(waited).await["status"], "expired");
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_the_gateway_and_the_client_has_its_id() {
    let system = System::start().await;
    let request = system.request(Method::POST, "/v1/engines/letter/execute").header("prefer", "wait=60");
    let waiting = tokio::spawn(request.json(&json!({"input": {"topic": "bees"}})).send());
    testkit::wait::until_true(crate::system::WITHIN, "the submission", async || {
        body(system.get("/v1/executions").await).await["data"].as_array().unwrap().len() == 1
    })
    .await;

    system.edge.drain.cancel();

    let answer = tokio::time::timeout(crate::system::WITHIN, waiting).await.expect("an answer").unwrap().unwrap();
    assert_eq!(answer.status(), 202);
    assert_eq!(body(answer).await["status"], "queued");
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_follows_everything_that_is_shown() {
    let system = System::start().await;
    let id = system.submit().await;
    let path = format!("/v1/executions/{id}");
    system.post(&format!("{path}/stop"), &json!({})).await;
    let tag = async || system.get(&path).await.headers()["etag"].clone();
    let first = tag().await;
    assert_eq!(first, tag().await);

    // Neither an event nor a token more: what a stop that is not confirmed yet looks like.
    system.sql("UPDATE executions SET executor_ack_at = now()").await;

    assert_ne!(first, tag().await);
    system.end().await;
}

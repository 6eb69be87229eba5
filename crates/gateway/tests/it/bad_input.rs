//! Whatever comes in: the right problem, never a 500, nothing half-written.

use reqwest::Method;
use serde_json::{Value, json};

use crate::system::{System, body, problem};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_input_is_named_field_by_field() {
    let system = System::start().await;

    let wrong = json!({"input": {"topic": ["bees"], "words": 7, "colour": "red"}});
    let answer = problem(system.post("/v1/engines/letter/execute", &wrong).await, 422, "invalid_input").await;

    let mut pointers: Vec<&str> =
        answer["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/input/colour", "/input/topic", "/input/words"]);
    let missing = problem(system.post("/v1/engines/letter/execute", &json!({})).await, 422, "invalid_input").await;
    assert_eq!(missing["errors"][0]["pointer"], "/input/topic");
    assert_eq!(body(system.get("/v1/executions").await).await["data"], json!([]));
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bodies_are_refused_in_order() {
    let system = System::start().await;
    let send = |body: Vec<u8>| {
        let request = system.request(Method::POST, "/v1/engines/letter/execute");
        request.header("content-type", "application/json").body(body).send()
    };
    let nested = format!("{{\"input\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let large = format!("{{\"input\":{{\"topic\":\"{}\"}}}}", "x".repeat(11 << 20));
    let table: [(Vec<u8>, u16, &str); 8] = [
        (b"{".to_vec(), 400, "invalid_request"),
        (b"[]".to_vec(), 400, "invalid_request"),
        (b"\xff\xfe".to_vec(), 400, "invalid_request"),
        (br#"{"input":{"topic":"a"},"colour":1}"#.to_vec(), 400, "invalid_request"),
        (br#"{"input":{"topic":"a\u0000b"}}"#.to_vec(), 422, "invalid_input"),
        (br#"{"input":{"topic":"a\ud800b"}}"#.to_vec(), 422, "invalid_input"),
        (nested.into_bytes(), 400, "invalid_request"),
        (large.into_bytes(), 413, "payload_too_large"),
    ];

    for (body, status, code) in table {
        let label = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let answer = problem(send(body).await.unwrap(), status, code).await;
        if status == 422 {
            assert_eq!(answer["errors"][0]["pointer"], "/input/topic", "{label}");
        }
    }
    let typed =
        system.request(Method::POST, "/v1/engines/letter/execute").header("content-type", "text/xml").body("<a/>");
    problem(typed.send().await.unwrap(), 415, "unsupported_media_type").await;
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_out_of_bounds_are_named() {
    let system = System::start().await;
    let table: [(Value, u16, &str); 10] = [
        (json!({"priority": "urgent"}), 422, "/priority"),
        (json!({"deadlineMs": 0}), 422, "/deadlineMs"),
        (json!({"endUser": "x".repeat(300)}), 422, "/endUser"),
        (json!({"labels": {"a": "x".repeat(300)}}), 422, "/labels/a"),
        (json!({"priority": "soon"}), 422, "/priority"),
        (json!({"labels": {"a.b/c": 1}}), 422, "/labels/a.b~1c"),
        (json!({"deadlineMs": "soon"}), 422, "/deadlineMs"),
        (json!({"version": "ver_x"}), 422, "/version"),
        (json!({"colour": "red"}), 400, "/colour"),
        (json!({"userInput": {}}), 400, "/userInput"),
    ];

    for (mut options, status, pointer) in table {
        options["input"] = json!({"topic": "bees"});
        let code = if status == 400 { "invalid_request" } else { "invalid_input" };
        let answer = problem(system.post("/v1/engines/letter/execute", &options).await, status, code).await;
        assert_eq!(answer["errors"][0]["pointer"], pointer);
    }
    let many = json!({"input": {"topic": "bees"}, "priority": "soon", "deadlineMs": 0, "labels": []});
    let answer = problem(system.post("/v1/engines/letter/execute", &many).await, 422, "invalid_input").await;
    assert_eq!(answer["errors"].as_array().unwrap().len(), 3);
    for key in ["", "a\"b", &"x".repeat(256)] {
        let request = system.request(Method::POST, "/v1/engines/letter/execute").header("idempotency-key", key);
        let request = request.json(&json!({"input": {"topic": "bees"}}));
        problem(request.send().await.unwrap(), 400, "invalid_request").await;
    }
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_paths_and_methods_that_are_wrong() {
    let system = System::start().await;
    let mut typo = system.key.clone();
    typo.pop();
    typo.push('_');

    for key in ["", "nonsense", typo.as_str(), "LEKH-2-k7Qm2Zp9-A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p64QAqQL"] {
        let response = system.http.get(format!("{}/v1/me", system.url)).bearer_auth(key).send().await.unwrap();
        assert!(response.headers().contains_key("www-authenticate"));
        problem(response, 401, "unauthorized").await;
    }
    problem(system.get("/v1/nothing").await, 404, "not_found").await;
    problem(system.get("/v1/executions/exec_nonsense").await, 404, "not_found").await;
    problem(system.get("/v1/executions/exec_0198c0de4f7a7000a000000000000001").await, 404, "not_found").await;
    for path in ["/v1/engines/%00", "/v1/engines/%00/schema", "/engines-api/%00", "/v1/engines/Letter"] {
        problem(system.get(path).await, 404, "not_found").await;
    }
    problem(system.post("/v1/engines/%00/execute", &json!({"input": {}})).await, 404, "not_found").await;
    let many = format!("/v1/executions?{}", "label.a=b&".repeat(65));
    problem(system.get(&many).await, 400, "invalid_request").await;
    problem(system.post("/v1/engines/unknown/execute", &json!({"input": {}})).await, 404, "not_found").await;
    let wrong = system.request(Method::DELETE, "/v1/executions").send().await.unwrap();
    assert_eq!(wrong.headers()["allow"], "GET, HEAD");
    problem(wrong, 405, "method_not_allowed").await;
    let preflight = system
        .http
        .request(Method::OPTIONS, format!("{}/v1/executions", system.url))
        .header("origin", "https://example.org")
        .header("access-control-request-method", "GET")
        .send()
        .await
        .unwrap();
    assert_eq!(preflight.status(), 204);
    assert_eq!(preflight.headers()["access-control-allow-origin"], "https://example.org");
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_within_five_seconds() {
    let system = System::start().await;
    let key = system.do_admin("/keys", json!({"userId": system.user})).await;
    let text = key["key"].as_str().unwrap();
    let me = || system.http.get(format!("{}/v1/me", system.url)).bearer_auth(text).send();
    assert_eq!(me().await.unwrap().status(), 200);

    let path = format!("/keys/{}/revoke", key["id"].as_str().unwrap());
    assert_eq!(system.admin(Method::POST, &path).send().await.unwrap().status(), 204);

    testkit::wait::until_true(std::time::Duration::from_secs(5), "the key is refused", async || {
        me().await.unwrap().status() == 401
    })
    .await;
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_name_over_millions_of_items_is_refused_at_once() {
    let system = System::start().await;
    let body = format!("{{\"input\":{{\"{}\":[0{}]}}}}", "n".repeat(5 << 20), ",0".repeat(2 << 20));

    let request = system.request(Method::POST, "/v1/engines/letter/execute").header("content-type", "application/json");
    let response = tokio::time::timeout(std::time::Duration::from_secs(20), request.body(body).send());

    let answer = problem(response.await.expect("an answer in time").unwrap(), 422, "invalid_input").await;
    assert!(answer.to_string().len() < 10_000);
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_comes_before_the_body_and_a_coded_body_is_not_read() {
    let system = System::start().await;
    let send = |key: &str, coding: &str| {
        let request = system.with_key(key, Method::POST, "/v1/engines/letter/execute");
        request.header("content-type", "application/json").header("content-encoding", coding).body("{").send()
    };

    problem(
        send("LEKH-2-k7Qm2Zp9-A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p64QAqQL", "identity").await.unwrap(),
        401,
        "unauthorized",
    )
    .await;
    problem(send(&system.key, "gzip").await.unwrap(), 415, "unsupported_media_type").await;
    problem(send(&system.key, "identity").await.unwrap(), 400, "invalid_request").await;
    system.end().await;
}

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
    let table: [(Value, u16, &str); 6] = [
        (json!({"priority": "urgent"}), 422, "/priority"),
        (json!({"deadlineMs": 0}), 422, "/deadlineMs"),
        (json!({"endUser": "x".repeat(300)}), 422, "/endUser"),
        (json!({"labels": {"a": "x".repeat(300)}}), 422, "/labels/a"),
        (json!({"priority": "soon"}), 400, "/priority"),
        (json!({"labels": {"a": 1}}), 400, "/labels/a"),
    ];

    for (mut options, status, pointer) in table {
        options["input"] = json!({"topic": "bees"});
        let code = if status == 400 { "invalid_request" } else { "invalid_input" };
        let answer = problem(system.post("/v1/engines/letter/execute", &options).await, status, code).await;
        assert_eq!(answer["errors"][0]["pointer"], pointer);
    }
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
    problem(system.post("/v1/engines/unknown/execute", &json!({"input": {}})).await, 404, "not_found").await;
    let wrong = system.request(Method::DELETE, "/v1/executions").send().await.unwrap();
    assert_eq!(wrong.headers()["allow"], "GET");
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

    testkit::wait::until_true(std::time::Duration::from_secs(6), "the key is refused", async || {
        me().await.unwrap().status() == 401
    })
    .await;
    system.end().await;
}

//! The admin listener: roles, keys, flows that are wrong.

use chrono::TimeDelta;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::json;
use service::{Clock as _, SystemClock};

use crate::system::{System, body, problem};

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_reads_and_changes_nothing() {
    let system = System::start().await;
    let secret = SecretString::from("an admin secret of more than thirty-two bytes");
    let token = |secret, life| admin::issue_token(secret, "eve", admin::Role::Viewer, SystemClock.now(), life).unwrap();
    let viewer = token(&secret, TimeDelta::hours(1));
    let other = SecretString::from("another secret of more than thirty-two bytes");
    let forged = token(&other, TimeDelta::hours(1));
    let expired = token(&secret, TimeDelta::seconds(-1));
    let send = |token: &str, method: Method, path: &str| {
        let request = system.http.request(method, format!("{}{path}", system.admin_url)).bearer_auth(token);
        request.json(&json!({"name": "x", "level": "test"})).send()
    };

    assert_eq!(send(&viewer, Method::GET, "/executions").await.unwrap().status(), 200);
    assert_eq!(send(&viewer, Method::GET, "/executors").await.unwrap().status(), 200);
    assert_eq!(send(&viewer, Method::POST, "/users").await.unwrap().status(), 403);
    for token in [&forged, &expired] {
        assert_eq!(send(token, Method::GET, "/executions").await.unwrap().status(), 401);
    }
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_lives_beside_the_old_one_for_its_grace() {
    let system = System::start().await;
    let old = system.do_admin("/keys", json!({"userId": system.user})).await;
    let path = format!("/keys/{}/rotate", old["id"].as_str().unwrap());

    let new = system.do_admin(&path, json!({"graceMs": 600_000})).await;

    for key in [&old, &new] {
        let me = system.http.get(format!("{}/v1/me", system.url)).bearer_auth(key["key"].as_str().unwrap());
        assert_eq!(me.send().await.unwrap().status(), 200);
    }
    let twice = system.admin(Method::POST, &path).json(&json!({"graceMs": 0})).send().await.unwrap();
    let refused = problem(twice, 409, "conflict").await;
    assert!(refused["detail"].as_str().unwrap().contains(new["id"].as_str().unwrap()), "{refused:#}");
    let again = system.do_admin(&format!("/keys/{}/rotate", new["id"].as_str().unwrap()), json!({"graceMs": 0})).await;
    let gone = system.http.get(format!("{}/v1/me", system.url)).bearer_auth(again["key"].as_str().unwrap());
    assert_eq!(gone.send().await.unwrap().status(), 200);
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_with_problems_or_unknown_models_is_not_deployed() {
    let system = System::start().await;
    let mut flow = domain::flow::read(crate::system::FLOW).unwrap();
    flow["nodes"][1]["model"] = json!("acme/unknown");

    let unknown = system.admin(Method::POST, "/engines").json(&json!({"flow": flow})).send().await.unwrap();
    assert_eq!(unknown.status(), 422);
    assert_eq!(body(unknown).await["errors"][0]["pointer"], "/flow/nodes/1/model");
    flow["nodes"][1]["model"] = json!("sim/nobody-knows");
    let unchecked = system.do_admin("/flows/validate", json!({"flow": flow})).await;
    assert_eq!((&unchecked["valid"], &unchecked["warnings"][0]["code"]), (&json!(true), &json!("unchecked_model")));
    flow["nodes"][1]["prompt"] = json!("{{ input.nothing }}");
    let checked = system.do_admin("/flows/validate", json!({"flow": flow})).await;
    assert_eq!(checked["valid"], false);
    let same = domain::flow::read(crate::system::FLOW).unwrap();
    assert_eq!(system.do_admin("/engines", json!({"flow": same})).await["created"], false);
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_rotated_without_grace_ends_at_once() {
    let system = System::start().await;
    let old = system.do_admin("/keys", json!({"userId": system.user})).await;
    let path = format!("/keys/{}/rotate", old["id"].as_str().unwrap());

    system.do_admin(&path, json!({"graceMs": 0})).await;

    let me = system.http.get(format!("{}/v1/me", system.url)).bearer_auth(old["key"].as_str().unwrap());
    problem(me.send().await.unwrap(), 401, "key_expired").await;
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_key_is_said_field_by_field() {
    let system = System::start().await;
    let user = json!({"userId": system.user});
    let with = |name: &str, value: serde_json::Value| {
        let mut body = user.clone();
        body[name] = value;
        system.admin(Method::POST, "/keys").json(&body).send()
    };

    for (name, value, pointer) in [
        ("test", json!(true), "/test"),
        ("name", json!("a\u{0}b"), "/name"),
        ("origins", json!(["https://a.example", "a\u{0}"]), "/origins/1"),
        ("origins", json!(["shop.example"]), "/origins/0"),
        ("origins", json!(["https://shop.example/path"]), "/origins/0"),
        ("expiresAt", json!("2020-01-01T00:00:00Z"), "/expiresAt"),
    ] {
        let refused = problem(with(name, value).await.unwrap(), 422, "invalid_input").await;
        assert_eq!(refused["errors"][0]["pointer"], pointer);
    }
    problem(with("tset", json!(true)).await.unwrap(), 400, "invalid_request").await;
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_cannot_be_stored_are_422_on_the_admin_listener() {
    let system = System::start().await;
    let mut flow = domain::flow::read(crate::system::FLOW).unwrap();
    flow["title"] = json!("a\u{0}b");

    for (path, body) in [
        ("/levels", json!({"name": "a\u{0}", "weight": 1.0, "maxPriority": "high"})),
        ("/users", json!({"name": "a\u{0}", "level": "test"})),
        ("/users", json!({"name": "bo", "level": "a\u{0}"})),
        ("/engines", json!({"flow": flow})),
    ] {
        let response = system.admin(Method::POST, path).json(&body).send().await.unwrap();
        problem(response, 422, "invalid_input").await;
    }
    // No engine can have such a name: nobody has to be asked.
    problem(system.get("/v1/engines/a%00b").await, 404, "not_found").await;
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_goes_wrong_is_a_problem_document_with_an_id() {
    let system = System::start().await;
    let send = |method: Method, path: &str| system.admin(method, path).send();
    let user = json!({"name": "x", "level": "test", "leval": "test"});
    let level = json!({"name": "x", "weight": 1.0, "maxPriority": "high", "maxRuning": 2});
    let assign = json!({"engineId": system.engine, "to": {"user": system.user}, "all": true});

    let wrong_method = send(Method::DELETE, "/levels").await.unwrap();
    assert_eq!(wrong_method.headers()["allow"], "POST");
    problem(wrong_method, 405, "method_not_allowed").await;
    problem(send(Method::GET, "/nothing").await.unwrap(), 404, "not_found").await;
    problem(send(Method::GET, "/executions/exec_none").await.unwrap(), 404, "not_found").await;
    for query in ["status=unknown", "colour=red", "pageSize=0", "pageSize=101", "pageSize=x", "pageToken=x"] {
        let response = send(Method::GET, &format!("/executions?{query}")).await.unwrap();
        problem(response, 400, "invalid_request").await;
    }
    for (path, body) in [("/users", user), ("/levels", level), ("/assignments", assign)] {
        problem(system.admin(Method::POST, path).json(&body).send().await.unwrap(), 400, "invalid_request").await;
    }
    let stranger = system.http.get(format!("{}/executors", system.admin_url)).send().await.unwrap();
    assert_eq!(stranger.headers()["www-authenticate"], "Bearer");
    problem(stranger, 401, "unauthorized").await;
    let good = send(Method::GET, "/executors").await.unwrap();
    assert!(good.headers().contains_key("x-request-id"));
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_of_all_users_come_in_pages_with_times_in_milliseconds() {
    let system = System::start().await;
    let mut ids = vec![system.submit().await, system.submit().await, system.submit().await];
    ids.reverse();

    let (mut seen, mut query) = (Vec::new(), "pageSize=2".to_owned());
    loop {
        let response = system.admin(Method::GET, &format!("/executions?{query}")).send().await.unwrap();
        let page = body(response).await;
        for execution in page["data"].as_array().unwrap() {
            seen.push(execution["executionId"].as_str().unwrap().to_owned());
            assert_eq!(execution["createdAt"].as_str().unwrap().len(), "2026-01-01T00:00:00.000Z".len());
            assert_eq!((&execution["status"], &execution["userId"]), (&json!("queued"), &json!(system.user)));
        }
        let Some(token) = page["nextPageToken"].as_str() else { break };
        query = format!("pageSize=2&pageToken={token}");
    }

    assert_eq!(seen, ids);
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_engine_takes_nothing_until_it_is_enabled() {
    let system = System::start().await;
    let request = json!({"input": {"topic": "bees"}});
    let execute = || system.post("/v1/engines/letter/execute", &request);

    let off = system.do_admin("/engines/letter/disable", json!({})).await;
    problem(execute().await, 403, "engine_disabled").await;
    let on = system.do_admin(&format!("/engines/{}/enable", system.engine), json!({})).await;
    let unknown = system.admin(Method::POST, "/engines/none/disable").send().await.unwrap();

    assert_eq!(off, json!({"engineId": system.engine, "enabled": false}));
    assert_eq!(on["enabled"], true);
    problem(unknown, 404, "not_found").await;
    // What a gateway knows of an engine lives five seconds.
    testkit::wait::until_true(crate::system::WITHIN, "the enabled engine", async || execute().await.status() == 202)
        .await;
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_can_be_retried_with_the_same_idempotency_key() {
    let system = System::start().await;
    system.do_admin("/levels", json!({"name": "test", "weight": 1.0, "maxPriority": "high", "maxQueued": 1})).await;
    let first = system.submit().await;
    let keyed = || {
        let request = system.request(Method::POST, "/v1/engines/letter/execute").header("idempotency-key", "once");
        request.json(&json!({"input": {"topic": "bees"}})).send()
    };

    problem(keyed().await.unwrap(), 429, "queue_full").await;
    system.post(&format!("/v1/executions/{first}/stop"), &json!({})).await;
    let retried = keyed().await.unwrap();

    assert_eq!(retried.status(), 202);
    assert!(!retried.headers().contains_key("idempotency-replayed"));
    let id = body(retried).await["executionId"].as_str().unwrap().to_owned();
    assert_eq!(body(system.get(&format!("/v1/executions/{id}")).await).await["status"], "queued");
    assert_eq!(body(keyed().await.unwrap()).await["executionId"], json!(id));
    system.end().await;
}

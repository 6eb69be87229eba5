//! The admin listener: roles, keys, flows that are wrong.

use chrono::TimeDelta;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::json;
use service::{Clock as _, SystemClock};

use crate::system::{System, body};

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
    flow["nodes"][1]["prompt"] = json!("{{ input.nothing }}");
    let checked = system.do_admin("/flows/validate", json!({"flow": flow})).await;
    assert_eq!(checked["valid"], false);
    let same = domain::flow::read(crate::system::FLOW).unwrap();
    assert_eq!(system.do_admin("/engines", json!({"flow": same})).await["created"], false);
    system.end().await;
}

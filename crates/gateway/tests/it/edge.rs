//! What surrounds every request: keys in headers, HEAD, CORS, caches.

use reqwest::{Method, header::HeaderValue};
use serde_json::json;

use crate::system::{System, body, problem};

#[tokio::test(flavor = "multi_thread")]
async fn head_answers_as_get_without_a_body() {
    let system = System::start().await;
    let id = system.submit().await;
    let stream = format!("/v1/executions/{id}/events");

    for path in ["/v1/me", "/v1/openapi.json", stream.as_str()] {
        let get = system.get(path).await;
        let head = system.request(Method::HEAD, path).header("accept", "text/event-stream").send().await.unwrap();
        assert_eq!(head.status(), 200, "{path}");
        assert!(head.headers().contains_key("x-request-id"));
        if path == "/v1/me" {
            let length = get.text().await.unwrap().len().to_string();
            assert_eq!(head.headers()["content-length"], length.as_str());
        }
        assert_eq!(head.text().await.unwrap(), "");
    }
    let wrong = system.request(Method::HEAD, "/v1/engines/letter/execute").send().await.unwrap();
    assert_eq!((wrong.status().as_u16(), wrong.headers()["allow"].to_str().unwrap()), (405, "POST"));
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_found_beside_a_token_that_is_meant_for_somebody_else() {
    let system = System::start().await;
    let send = |authorization: &str, key: &str| {
        let request =
            system.http.get(format!("{}/v1/me", system.url)).header("authorization", authorization.to_owned());
        request.header("x-api-key", key.to_owned()).send()
    };

    for authorization in ["Bearer eyJhbGciOiJIUzI1NiJ9.e30.x", "Basic eDp5"] {
        assert_eq!(send(authorization, &system.key).await.unwrap().status(), 200, "{authorization}");
        problem(send(authorization, "nonsense").await.unwrap(), 401, "unauthorized").await;
    }
    // A key in `Authorization` counts alone.
    problem(send("Bearer LEKH-2-nonsense", &system.key).await.unwrap(), 401, "unauthorized").await;
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_are_compared_byte_by_byte_and_caches_are_told() {
    let system = System::start().await;
    let key = json!({"userId": system.user, "origins": ["https://shop.example"]});
    let key = system.do_admin("/keys", key).await["key"].as_str().unwrap().to_owned();
    let send = |origin: &[u8]| {
        let request = system.with_key(&key, Method::GET, "/v1/me");
        request.header("origin", HeaderValue::from_bytes(origin).unwrap()).send()
    };

    let right = send(b"https://shop.example").await.unwrap();
    assert_eq!(right.status(), 200);
    assert_eq!(right.headers()["cache-control"], "no-store");
    let exposed = right.headers()["access-control-expose-headers"].to_str().unwrap();
    for name in ["etag", "preference-applied", "deprecation", "ratelimit"] {
        assert!(exposed.contains(name), "{exposed}");
    }
    assert!(right.headers()["access-control-allow-headers"].to_str().unwrap().contains("if-none-match"));
    for wrong in [b"https://other.example".as_slice(), b"https://shop.exampl\xe9"] {
        problem(send(wrong).await.unwrap(), 403, "origin_not_allowed").await;
    }
    let plain = system.get("/v1/me").await;
    assert_eq!(plain.headers()["vary"], "origin");
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_url_may_end_with_a_slash() {
    let system = System::start_at(Some("https://api.example/")).await;

    let response = system.post("/v1/engines/letter/execute", &json!({"input": {"topic": "bees"}})).await;

    let accepted = body(response).await;
    let id = accepted["executionId"].as_str().unwrap();
    assert_eq!(accepted["statusUrl"], format!("https://api.example/v1/executions/{id}"));
    system.end().await;
}

//! The OpenAPI document says what is there.

use reqwest::Method;
use serde_json::json;

use crate::system::{System, body};

#[tokio::test(flavor = "multi_thread")]
async fn every_described_path_exists_and_its_references_resolve() {
    let system = System::start().await;
    let document = body(system.http.get(format!("{}/v1/openapi.json", system.url)).send().await.unwrap()).await;
    assert_eq!(document["openapi"], "3.1.0");
    let text = document.to_string();
    for part in text.split("\"#/").skip(1) {
        let pointer = format!("/{}", part.split('"').next().unwrap());
        assert!(document.pointer(&pointer).is_some(), "{pointer}");
    }

    for (path, operations) in document["paths"].as_object().unwrap() {
        let url = path.replace("{engine}", "letter").replace("{id}", "exec_x").replace("{name}", "x");
        for method in operations.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            // With another method the path answers 405: so it exists.
            let wrong = system.request(Method::PATCH, &url).json(&json!({})).send().await.unwrap();
            assert_eq!(wrong.status(), 405, "{method} {url}");
            let allowed = if method == Method::GET { "GET, HEAD" } else { method.as_str() };
            assert_eq!(wrong.headers()["allow"], allowed, "{url}");
        }
    }
    let docs = system.http.get(format!("{}/docs", system.url)).send().await.unwrap();
    assert_eq!(docs.status(), 200);
    assert!(docs.text().await.unwrap().contains("swagger-ui"));
    system.end().await;
}

//! Files: links, names, and who may not.

use reqwest::Method;
use serde_json::json;

use crate::system::{System, body, problem};

/// An execution that ended with one file.
async fn finished(system: &System) -> String {
    let id = system.submit().await;
    system.post(&format!("/v1/executions/{id}/stop"), &json!({})).await;
    std::fs::write(system.files.path().join("moss"), "text").unwrap();
    let row = "INSERT INTO deliverables (execution_id, name, format, media_type, bytes, object_key) \
               SELECT id, '苔.md', 'md', 'text/markdown', 4, 'moss' FROM executions";
    system.sql(row).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_its_name_in_any_script() {
    let system = System::start().await;
    let id = finished(&system).await;

    let files = body(system.get(&format!("/v1/executions/{id}/deliverables")).await).await;
    let file = system.http.get(files["data"][0]["url"].as_str().unwrap()).send().await.unwrap();

    assert_eq!(file.status(), 200);
    let disposition = file.headers()["content-disposition"].to_str().unwrap().to_owned();
    assert_eq!(disposition, "attachment; filename=\"_.md\"; filename*=UTF-8''%E8%8B%94.md");
    assert_eq!(file.text().await.unwrap(), "text");
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_a_file_says_what_is_wrong() {
    let system = System::start().await;
    let id = finished(&system).await;
    let path = format!("/v1/executions/{id}/deliverables/%E8%8B%94.md");
    let bound = json!({"userId": system.user, "origins": ["https://shop.example"]});
    let bound = system.do_admin("/keys", bound).await["key"].as_str().unwrap().to_owned();

    assert_eq!(system.get(&path).await.status(), 200);
    let elsewhere = system.with_key(&bound, Method::GET, &path).header("origin", "https://other.example");
    problem(elsewhere.send().await.unwrap(), 403, "origin_not_allowed").await;
    let nobody = system.http.get(format!("{}{path}", system.url)).send().await.unwrap();
    problem(nobody, 401, "unauthorized").await;
    problem(system.get(&format!("{path}?expires=1&signature=00")).await, 404, "not_found").await;
    system.end().await;
}

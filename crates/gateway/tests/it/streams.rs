//! Event streams: from the start, from any id, to the end.

use futures::StreamExt as _;
use reqwest::{Method, Response};
use serde_json::json;

use crate::system::{System, WITHIN, body, problem};

async fn read_to_end(response: Response) -> String {
    let mut stream = response.bytes_stream();
    let mut text = Vec::new();
    let read = async {
        while let Some(Ok(chunk)) = stream.next().await {
            text.extend_from_slice(&chunk);
        }
    };
    tokio::time::timeout(WITHIN, read).await.expect("the stream ends");
    String::from_utf8(text).unwrap()
}

fn ids(text: &str) -> Vec<i64> {
    text.lines().filter_map(|line| line.strip_prefix("id: ")).map(|id| id.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_live_ends_after_the_terminal_event_and_resumes_at_any_id() {
    let system = System::start().await;
    let id = system.submit().await;
    let path = format!("/v1/executions/{id}/events");
    let live = system.request(Method::GET, &path).header("accept", "text/event-stream").send().await.unwrap();
    assert_eq!(live.headers()["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(live.headers()["cache-control"], "no-cache, no-transform");
    let live = tokio::spawn(read_to_end(live));

    system.post(&format!("/v1/executions/{id}/stop"), &json!({})).await;
    let text = live.await.unwrap();

    assert!(text.starts_with("retry: 2000\n\n"), "{text}");
    assert!(text.contains("event: execution.queued\n") && text.contains("event: execution.cancelled\n"), "{text}");
    let all = ids(&text);
    assert_eq!(all.len(), 2);
    for (at, after) in [0].iter().chain(&all).enumerate() {
        let again = system
            .request(Method::GET, &path)
            .header("accept", "text/event-stream")
            .header("last-event-id", after.to_string())
            .send()
            .await
            .unwrap();
        if at == all.len() {
            assert_eq!(again.status(), 204);
        } else {
            let replayed = read_to_end(again).await;
            assert_eq!(ids(&replayed), all[at..]);
            assert!(text.ends_with(replayed.strip_prefix("retry: 2000\n\n").unwrap()));
        }
    }
    let page = body(system.get(&format!("{path}?after={}", all[0])).await).await;
    assert_eq!(page["data"].as_array().unwrap().len(), 1);
    assert_eq!(page["data"][0]["prev"], all[0]);
    assert_eq!(page["terminal"], true);
    problem(system.get(&format!("{path}?after=x")).await, 400, "invalid_request").await;
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_from_beyond_the_end_ends_with_the_execution() {
    let system = System::start().await;
    let id = system.submit().await;
    let path = format!("/v1/executions/{id}/events");
    let open = |path: String| system.request(Method::GET, &path).header("accept", "text/event-stream").send();
    let beyond = tokio::spawn(read_to_end(open(format!("{path}?after=9000000000000000")).await.unwrap()));
    let other = tokio::spawn(read_to_end(open(path.clone()).await.unwrap()));
    assert_eq!(body(system.get(&path).await).await["terminal"], false);

    system.post(&format!("/v1/executions/{id}/stop"), &json!({})).await;

    assert_eq!(ids(&beyond.await.unwrap()), [0_i64; 0]);
    assert_eq!(ids(&other.await.unwrap()).len(), 2);
    assert_eq!(open(format!("{path}?after=9000000000000000")).await.unwrap().status(), 204);
    system.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_ends_with_its_key() {
    let system = System::start().await;
    let id = system.submit().await;
    let key = system.do_admin("/keys", json!({"userId": system.user})).await;
    let stream = system
        .with_key(key["key"].as_str().unwrap(), Method::GET, &format!("/v1/executions/{id}/events"))
        .header("accept", "text/event-stream");
    let stream = stream.send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let revoked_at = std::time::Instant::now();

    let path = format!("/keys/{}/revoke", key["id"].as_str().unwrap());
    assert_eq!(system.admin(Method::POST, &path).send().await.unwrap().status(), 204);
    let text = read_to_end(stream).await;

    assert!(revoked_at.elapsed() < std::time::Duration::from_secs(6), "{:?}", revoked_at.elapsed());
    assert!(text.ends_with(": the key is not valid any more\n\n"), "{text}");
    system.end().await;
}

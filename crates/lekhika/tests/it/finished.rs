//! From a POST to finished files, as integrators and people at a terminal do it.

use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    events::texts,
    processes::{folder, lekhika},
    system::System,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_post_becomes_a_finished_book() {
    let system = System::start(&[]).await;
    system.deploy("three", &["sim/instant", "sim/writer", "sim/instant"]).await;

    let id = system.submit("three").await;
    let events = system.stream(&id, 0).await;
    let done = system.ended(&id).await;

    assert_eq!(done["status"], "completed");
    assert_eq!(done["progress"]["percent"], 100);
    assert!(done["usage"]["total"].as_i64().unwrap() > 0);
    assert!(events.windows(2).all(|pair| pair[1].data["prev"] == pair[0].sequence));
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!((names[0], *names.last().unwrap()), ("execution.queued", "execution.completed"));
    let last = &texts(&events)["step3/0"];
    let files = done["deliverables"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    let markdown = files.iter().find(|file| file["format"] == "md").unwrap();
    let text = system.http.get(markdown["url"].as_str().unwrap()).send().await.unwrap().text().await.unwrap();
    assert!(text.contains(last.trim()), "{text}\n---\n{last}");
    let forged = markdown["url"].as_str().unwrap().replace("signature=", "signature=0");
    assert_eq!(system.http.get(forged).send().await.unwrap().status(), 404);

    wait_and_keys(&system).await;
    duplicates(&system).await;
    by_command_line(&system, &id);
    the_other_examples(&system);
    system.all_is_well().await;
}

async fn wait_and_keys(system: &System) {
    let send = || {
        let request = system.request(Method::POST, "/v1/engines/three/execute");
        request.header("prefer", "wait=30").header("idempotency-key", "once").json(&json!({"input": {"topic": "ants"}}))
    };
    let first = send().send().await.unwrap();
    assert_eq!(first.status(), 200);
    let first: Value = first.json().await.unwrap();
    assert_eq!(first["status"], "completed");
    let again = send().send().await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(again.json::<Value>().await.unwrap()["executionId"], first["executionId"]);
}

/// 1,000 executions, 50 of them submitted twice at the same moment through both gateways under one key: 1,000 results.
async fn duplicates(system: &System) {
    system.deploy("one", &["sim/instant"]).await;
    let send = async |gateway: usize, key: usize| {
        let request = system.request_at(gateway, Method::POST, "/v1/engines/one/execute");
        let request = request.header("idempotency-key", format!("order-{key}"));
        let request = request.json(&json!({"input": {"topic": "bees"}, "labels": {"batch": "thousand"}}));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 202);
        let replayed = response.headers().contains_key("idempotency-replayed");
        let body: Value = response.json().await.unwrap();
        (body["executionId"].as_str().unwrap().to_owned(), replayed)
    };
    let order = async |key: usize| {
        if !key.is_multiple_of(20) {
            return send(key, key).await.0;
        }
        let ((first, one), (second, other)) = tokio::join!(send(0, key), send(1, key));
        assert_eq!(first, second, "order-{key}");
        assert!(one != other, "one of both is the replay of the other");
        first
    };
    let ids: Vec<String> = futures::stream::iter((0..1000).map(order)).buffer_unordered(32).collect().await;
    let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
    assert_eq!((ids.len(), distinct.len()), (1000, 1000));

    testkit::wait::until(crate::system::WITHIN, "1,000 results", async || {
        let mut completed = 0;
        let mut token = String::new();
        loop {
            let page =
                system.get(&format!("/v1/executions?status=completed&label.batch=thousand&pageSize=100{token}")).await;
            completed += page["data"].as_array().unwrap().len();
            match page["nextPageToken"].as_str() {
                Some(next) => token = format!("&pageToken={next}"),
                None if completed == 1000 => return Ok(()),
                None => return Err(completed),
            }
        }
    })
    .await;
}

fn by_command_line(system: &System, id: &str) {
    let folder = folder("out");
    let input = folder.path().join("input.json");
    std::fs::write(&input, r#"{"topic": "bees"}"#).unwrap();
    let run = |arguments: &[&str]| {
        let output = lekhika()
            .args(arguments)
            .env("LEKHIKA_URL", system.url())
            .env("LEKHIKA_API_KEY", system.key())
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let out = folder.path().to_str().unwrap();

    let (ok, text, _) = run(&["run", "three", "--input", input.to_str().unwrap(), "--out", out]);
    assert!(ok && text.contains("step3: done") && text.contains(".md"), "{text}");
    let (ok, text, _) = run(&["watch", id, "--out", out]);
    assert!(ok && text.contains("completed"), "{text}");
    let (ok, text, _) = run(&["stop", id]);
    assert!(ok && text.contains("completed"), "{text}");
    std::fs::write(&input, "{}").unwrap();
    let (ok, _, error) = run(&["run", "three", "--input", input.to_str().unwrap(), "--out", out]);
    assert!(!ok && error.contains("/input/topic"), "{error}");

    // Nobody waits for what will not come: not a minute, as for a stream that stays away.
    let begin = std::time::Instant::now();
    let (ok, _, error) = run(&["watch", "exec_01900000-0000-7000-8000-000000000000"]);
    assert!(!ok && error.contains("404"), "{error}");
    let (ok, _, error) = run(&["watch", id, "--key", "LEKH-wrong"]);
    assert!(!ok && error.contains("401"), "{error}");
    assert!(begin.elapsed() < std::time::Duration::from_secs(20));
}

/// The engines of `examples/` besides the sample, deployed and run as they are.
fn the_other_examples(system: &System) {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let folder = folder("examples");
    let started = ["blog-post", "summarise"].map(|name| {
        let deployed = lekhika()
            .args(["admin", "deploy", &format!("{examples}/engines/{name}.yaml")])
            .env("LEKHIKA_ADMIN_URL", system.facts["adminUrl"].as_str().unwrap())
            .env("LEKHIKA_ADMIN_TOKEN", system.facts["adminToken"].as_str().unwrap())
            .output()
            .unwrap();
        assert!(deployed.status.success(), "{}", String::from_utf8_lossy(&deployed.stderr));
        let input = format!("{examples}/inputs/{name}.json");
        let run = lekhika()
            .args(["run", name, "--input", &input, "--out", folder.path().to_str().unwrap()])
            .env("LEKHIKA_URL", system.url())
            .env("LEKHIKA_API_KEY", system.key())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        (name, run)
    });
    for (name, run) in started {
        let output = run.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{name}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
        let files: Vec<&str> = text.lines().map(str::trim).filter(|line| line.contains("/exec_")).collect();
        assert!(files.len() >= 2, "{name}: {text}");
        for file in files {
            assert!(std::fs::metadata(file).unwrap().len() > 100, "{file}");
        }
    }
}

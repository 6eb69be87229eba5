//! Parts that are away for a while.

use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use testkit::wait;

use crate::{
    events::assert_whole,
    processes::kill,
    system::{System, WITHIN},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_away_for_a_while_loses_nothing() {
    let system = System::start(&["--executors", "2"]).await;
    what_is_submitted_while_status_is_away_runs_when_it_is_back(&system).await;
    without_the_broker_submissions_are_refused_and_nothing_is_lost(&system).await;
    ten_seconds_without_postgres_fence_no_healthy_run(&system).await;
    system.all_is_well().await;
}

async fn what_is_submitted_while_status_is_away_runs_when_it_is_back(system: &System) {
    system.deploy("one", &["sim/instant"]).await;
    // The caches of the gateway are warm.
    let warm = system.submit("one").await;
    system.ended(&warm).await;

    for (_, pid) in system.pids("status") {
        kill(pid, Signal::SIGSTOP);
    }
    let standing = submitted_in_vain(system, "standing").await;
    for (_, pid) in system.pids("status") {
        kill(pid, Signal::SIGCONT);
    }
    runs_after_all(system, "standing", &standing).await;

    // Who would start them again at once stands still meanwhile.
    kill(system.supervisor(), Signal::SIGSTOP);
    for (_, pid) in system.pids("status") {
        kill(pid, Signal::SIGKILL);
    }
    let killed = submitted_in_vain(system, "killed").await;
    let read = system.request(Method::GET, &format!("/v1/executions/{}", killed[0])).send().await.unwrap();
    assert_eq!(read.status(), 503, "nobody knows it yet, and nobody denies it");
    kill(system.supervisor(), Signal::SIGCONT);
    runs_after_all(system, "killed", &killed).await;
}

async fn keyed(system: &System, key: &str) -> Response {
    let request = system.request(Method::POST, "/v1/engines/one/execute").header("idempotency-key", key);
    request.json(&json!({"input": {"topic": "bees"}, "labels": {"keyed": key}})).send().await.unwrap()
}

/// Ten without a key are accepted on the broker's word; one with a key is refused.
async fn submitted_in_vain(system: &System, key: &str) -> Vec<String> {
    let plain = async |_| {
        let response = system.post("/v1/engines/one/execute", &json!({"input": {"topic": "bees"}})).await;
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        assert_eq!((status.as_u16(), &body["queue"]), (202, &Value::Null), "{body}");
        body["executionId"].as_str().unwrap().to_owned()
    };
    let (ids, refused) = tokio::join!(futures::future::join_all((0..10).map(plain)), keyed(system, key));
    assert_eq!(refused.status(), 503);
    let problem: Value = refused.json().await.unwrap();
    assert_eq!((&problem["code"], &problem["retryable"]), (&json!("unavailable"), &json!(true)));
    assert!(problem["executionId"].is_string(), "{problem:#}");
    ids
}

async fn runs_after_all(system: &System, key: &str, accepted: &[String]) {
    for id in accepted {
        assert_eq!(system.ended(id).await["status"], "completed");
    }
    let retried = wait::until(WITHIN, "the retry", async || {
        let response = keyed(system, key).await;
        if response.status() != 202 {
            return Err(response.text().await.unwrap_or_default());
        }
        response.json::<Value>().await.map_err(|error| error.to_string())
    })
    .await;
    system.ended(retried["executionId"].as_str().unwrap()).await;
    let all = system.get(&format!("/v1/executions?label.keyed={key}")).await;
    assert_eq!(all["data"].as_array().unwrap().len(), 1);
}

async fn without_the_broker_submissions_are_refused_and_nothing_is_lost(system: &System) {
    let mut accepted = vec![system.submit("one").await];
    let (_, pid) = system.pids("rabbitmq").pop().unwrap();
    kill(pid, Signal::SIGKILL);

    let mut refused = 0;
    wait::until(WITHIN, "a refusal, then an accepted submission", async || {
        let response = system.post("/v1/engines/one/execute", &json!({"input": {"topic": "bees"}})).await;
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        if status == 202 {
            accepted.push(body["executionId"].as_str().unwrap().to_owned());
            return if refused > 0 { Ok(()) } else { Err(body) };
        }
        // Without a key an uncertain submission, which has an id, must not be repeated blindly.
        let retryable = json!(body["executionId"].is_null());
        assert_eq!((status.as_u16(), &body["code"], &body["retryable"]), (503, &json!("unavailable"), &retryable));
        refused += 1;
        Err(body)
    })
    .await;

    for id in accepted {
        assert_eq!(system.ended(&id).await["status"], "completed");
    }
}

async fn ten_seconds_without_postgres_fence_no_healthy_run(system: &System) {
    system.deploy("long", &["sim/instant", "sim/tokens-240-rate-20"]).await;

    outage(system, async |postmaster| {
        let mut all = children(postmaster);
        all.push(postmaster);
        for pid in &all {
            kill(*pid, Signal::SIGSTOP);
        }
        ten_seconds().await;
        for pid in &all {
            kill(*pid, Signal::SIGCONT);
        }
    })
    .await;
    outage(system, async |postmaster| {
        // Who would start it again at once stands still meanwhile.
        kill(system.supervisor(), Signal::SIGSTOP);
        kill(postmaster, Signal::SIGKILL);
        ten_seconds().await;
        kill(system.supervisor(), Signal::SIGCONT);
    })
    .await;
}

async fn ten_seconds() {
    // Sleeps: the outage has a length, nothing waits for it.
    tokio::time::sleep(Duration::from_secs(10)).await;
}

/// Fifty executions stream while the database is away; each ends in its first attempt.
async fn outage(system: &System, away: impl AsyncFnOnce(i32)) {
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(system.submit("long").await);
    }
    wait::until(WITHIN, "fifty streams", async || {
        let stats = system.simulator(Method::GET, "/stats").await;
        if stats["open"] == 50 { Ok(()) } else { Err(stats["open"].clone()) }
    })
    .await;
    let (_, postmaster) = system.pids("postgres").pop().unwrap();
    let watched = futures::future::join_all(ids[..5].iter().map(|id| system.stream(id, 0)));

    let (watched, ()) = tokio::join!(watched, away(postmaster));

    for id in &ids {
        let done = system.ended(id).await;
        assert_eq!((&done["status"], &done["attempt"]), (&json!("completed"), &json!(1)), "{done:#}");
        assert_eq!(system.calls(id).await, json!({"step1/0": 1, "step2/0": 1}));
    }
    for (id, events) in ids.iter().zip(watched) {
        assert_whole(&events, "completed");
        assert_eq!(system.stream_at(1, id, 0).await, events);
    }
}

fn children(parent: i32) -> Vec<i32> {
    let parent = parent.to_string();
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(&parent)
        })
        .collect()
}

//! Parts that are away for a while.

use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::wait;

use crate::{
    processes::kill,
    system::{System, WITHIN},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_submitted_while_status_stands_still_runs_when_it_is_back() {
    let system = System::start(&["--no-restart"]).await;
    system.deploy("one", &["sim/instant"]).await;
    // The caches of the gateway are warm.
    let warm = system.submit("one").await;
    system.ended(&warm).await;
    let statuses = system.pids("status");
    for (_, pid) in &statuses {
        kill(*pid, Signal::SIGSTOP);
    }

    let plain = system.submit("one").await;
    let keyed = || {
        let request = system.request(Method::POST, "/v1/engines/one/execute").header("idempotency-key", "k");
        request.json(&json!({"input": {"topic": "bees"}, "labels": {"keyed": "yes"}})).send()
    };
    let refused = keyed().await.unwrap();
    assert_eq!(refused.status(), 503);
    let problem: Value = refused.json().await.unwrap();
    assert_eq!((&problem["code"], &problem["retryable"]), (&json!("unavailable"), &json!(true)));
    assert!(problem["executionId"].is_string(), "{problem:#}");
    for (_, pid) in &statuses {
        kill(*pid, Signal::SIGCONT);
    }

    assert_eq!(system.ended(&plain).await["status"], "completed");
    let accepted = wait::until(WITHIN, "the retry", async || {
        let response = keyed().await.map_err(|error| error.to_string())?;
        if response.status() != 202 {
            return Err(response.text().await.unwrap_or_default());
        }
        response.json::<Value>().await.map_err(|error| error.to_string())
    })
    .await;
    system.ended(accepted["executionId"].as_str().unwrap()).await;
    let all = system.get("/v1/executions?label.keyed=yes").await;
    assert_eq!(all["data"].as_array().unwrap().len(), 1);
    system.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_broker_submissions_are_refused_and_nothing_is_lost() {
    let system = System::start(&[]).await;
    system.deploy("one", &["sim/instant"]).await;
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
    system.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_seconds_without_postgres_fence_no_healthy_run() {
    let system = System::start(&["--no-restart"]).await;
    system.deploy("gated", &["sim/instant", "sim/gate-patient"]).await;
    let id = system.submit("gated").await;
    system.held("patient", 1).await;
    let (_, postmaster) = system.pids("postgres").pop().unwrap();
    let mut all = children(postmaster);
    all.push(postmaster);

    for pid in &all {
        kill(*pid, Signal::SIGSTOP);
    }
    // The outage itself is what is tested: it has a length, nothing waits for it.
    tokio::time::sleep(Duration::from_secs(10)).await;
    for pid in &all {
        kill(*pid, Signal::SIGCONT);
    }
    wait::until(WITHIN, "the platform back", async || {
        let response = system.request(Method::GET, &format!("/v1/executions/{id}")).send().await;
        match response {
            Ok(response) if response.status() == 200 => Ok(()),
            Ok(response) => Err(response.status().to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    system.open("patient").await;

    let done = system.ended(&id).await;
    assert_eq!((&done["status"], &done["attempt"]), (&json!("completed"), &json!(1)), "{done:#}");
    assert_eq!(system.calls(&id).await["step2/0"], 1);
    system.all_is_well().await;
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

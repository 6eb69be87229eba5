//! kill -9, of everything that there is.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::wait;

use crate::{
    processes::kill,
    system::{System, WITHIN, texts},
};

#[tokio::test(flavor = "multi_thread")]
async fn another_executor_resumes_at_the_step_in_which_one_was_killed() {
    let system = System::start(&["--executors", "2"]).await;
    system.deploy("gated", &["sim/instant", "sim/gate-second", "sim/instant"]).await;
    let id = system.submit("gated").await;
    let follow = async { system.stream(&id, 0).await };
    let murder = async {
        system.held("second", 1).await;
        wait::until(WITHIN, "the first step in the ledger", async || {
            let units = system.execution(&id).await["progress"]["nodesDone"].clone();
            if units.as_u64() >= Some(1) { Ok(()) } else { Err(units) }
        })
        .await;
        let (name, pid) = system.busy_executor().await;
        let died = Instant::now();
        kill(pid, Signal::SIGKILL);
        wait::until(WITHIN, "step 2 at another executor", async || {
            let calls = system.calls(&id).await;
            if calls["step2/0"] == 2 { Ok(()) } else { Err(calls) }
        })
        .await;
        println!("{name} was killed; step 2 began again after {:?}", died.elapsed());
        assert!(died.elapsed() < Duration::from_secs(5));
        system.open("second").await;
    };
    let (events, ()) = tokio::join!(follow, murder);

    let done = system.ended(&id).await;
    assert_eq!(done["status"], "completed");
    let calls = system.calls(&id).await;
    assert_eq!((&calls["step1/0"], &calls["step2/0"], &calls["step3/0"]), (&json!(1), &json!(2), &json!(1)));
    // The simulator's text is a function of its prompt: an undisturbed run has the right one.
    let undisturbed = system.submit("gated").await;
    assert_eq!(texts(&events), texts(&system.stream(&undisturbed, 0).await));
    reconnects(&system, &id).await;
    system.all_is_well().await;
}

/// At 50 ids of a long stream every later event comes exactly once.
async fn reconnects(system: &System, id: &str) {
    let all = system.stream(id, 0).await;
    for round in 0..50 {
        let at = (round * 7919) % all.len();
        assert_eq!(system.stream(id, all[at].sequence).await, all[at + 1..], "after {}", all[at].sequence);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_executions_survive_the_death_of_every_service_and_server() {
    let system = System::start(&[]).await;
    system.deploy("two", &["sim/instant", "sim/tokens-20-rate-40"]).await;
    let submit = |number: usize| {
        let system = &system;
        async move {
            wait::until(WITHIN, "an accepted submission", async || {
                let request = system.request(Method::POST, "/v1/engines/two/execute");
                let request = request.header("idempotency-key", format!("chaos-{number}"));
                let body = json!({"input": {"topic": "bees"}, "labels": {"batch": "chaos"}});
                let response = request.json(&body).timeout(Duration::from_secs(10)).send().await;
                match response {
                    Ok(response) if response.status() == 202 => {
                        let body: Value = response.json().await.map_err(|error| error.to_string())?;
                        Ok(body["executionId"].as_str().unwrap().to_owned())
                    }
                    Ok(response) => Err(response.text().await.unwrap_or_default()),
                    Err(error) => Err(error.to_string()),
                }
            })
            .await
        }
    };
    let load = async { futures::stream::iter(0..300).map(submit).buffer_unordered(12).collect::<Vec<String>>().await };
    let chaos = async {
        for role in ["status", "gateway", "rabbitmq", "postgres"] {
            let before = system.pids(role);
            // The first gateway is the one the test talks to; of the status replicas the leader is among them.
            for (_, pid) in &before {
                kill(*pid, Signal::SIGKILL);
            }
            wait::until(WITHIN, role, async || {
                let now = system.pids(role);
                let other = now.iter().all(|process| !before.contains(process)) && now.len() == before.len();
                if other { Ok(()) } else { Err(now) }
            })
            .await;
        }
    };
    let (ids, ()) = tokio::join!(load, chaos);

    let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
    assert_eq!(distinct.len(), 300);
    for id in &ids {
        assert_eq!(system.ended(id).await["status"], "completed", "{id}");
        let events = system.stream(id, 0).await;
        let ends = events.iter().filter(|event| domain::event::is_terminal_name(&event.name)).count();
        assert_eq!(ends, 1, "{id}");
    }
    system.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_executor_changes_nothing() {
    let system = System::start(&["--executors", "2"]).await;
    system.deploy("gated", &["sim/instant", "sim/gate-parted"]).await;
    let id = system.submit("gated").await;
    system.held("parted", 1).await;
    let (_, pid) = system.busy_executor().await;

    // It stands still longer than its lease lasts; another takes over; then it wakes with everything it had to say.
    kill(pid, Signal::SIGSTOP);
    wait::until(WITHIN, "another attempt", async || {
        let attempt = system.execution(&id).await["attempt"].as_i64();
        if attempt > Some(1) { Ok(()) } else { Err(attempt) }
    })
    .await;
    system.held("parted", 2).await;
    system.open("parted").await;
    let done = system.ended(&id).await;
    let before = system.stream(&id, 0).await;
    kill(pid, Signal::SIGCONT);
    // Its renewals tell it: then it holds nothing and is listed as free.
    wait::until(WITHIN, "the executor back", async || {
        let executors = system.admin(Method::GET, "/executors", &Value::Null).await;
        let all = executors["data"].as_array().unwrap().clone();
        if all.len() == 2 && all.iter().all(|executor| executor["running"] == 0) { Ok(()) } else { Err(executors) }
    })
    .await;

    assert_eq!(done["status"], "completed");
    assert_eq!(system.stream(&id, 0).await, before);
    assert_eq!(system.execution(&id).await["lastSequence"], done["lastSequence"]);
    system.all_is_well().await;
}

//! `lekhika stack` itself: what it says of its processes, what it tells them, and what its own death leaves behind.

use std::{collections::BTreeSet, path::Path, process::Command};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::Value;
use testkit::wait;

use crate::{
    processes::{Running, folder, hears_hangups, is_alive, kill, lekhika},
    system::{System, WITHIN},
};

const ROLES: [&str; 6] = ["gateway", "status", "executor", "simulator", "postgres", "rabbitmq"];

fn all_pids(system: &System) -> Vec<(String, i32)> {
    ROLES.iter().flat_map(|role| system.pids(role)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_stack_had_accepted_runs_after_the_next_start_and_no_process_of_it_lives_on() {
    let mut system = System::start(&[]).await;
    system.deploy("one", &["sim/instant"]).await;
    let warm = system.submit("one").await;
    system.ended(&warm).await;
    // Nobody takes it in: it is in RabbitMQ alone when everything dies.
    for (_, pid) in system.pids("status") {
        kill(pid, Signal::SIGSTOP);
    }
    let waiting = system.submit("one").await;
    let before = all_pids(&system);
    let mut orphan = Command::new("sleep");
    orphan.arg("600").env("LEKHIKA_INSTANCE", system.data());
    let mut orphan = Running(orphan.spawn().unwrap());

    system.kill9().await;
    system.start_again(&[]).await;

    assert_eq!(system.ended(&waiting).await["status"], "completed");
    let alive: Vec<_> = before.iter().filter(|(_, pid)| is_alive(*pid)).collect();
    assert!(alive.is_empty(), "{alive:?}");
    assert!(!orphan.ended().await.success());
    system.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_says_what_it_is_keeps_it_up_and_ends_with_it() {
    // Whoever rebuilds replaces the program: here it is gone.
    let folder = folder("e2e");
    let program = folder.path().join("lekhika");
    std::fs::copy(env!("CARGO_BIN_EXE_lekhika"), &program).unwrap();
    let inherited = [("LEKHIKA_PUBLIC_URL", "http://elsewhere.test"), ("LEKHIKA_FAILPOINT", "intake.before_commit")];
    let mut system = System::start_program(&program, folder, &[], &inherited).await;
    std::fs::remove_file(&program).unwrap();

    facts_are_complete(&system);
    every_process_answers(&system).await;
    every_role_is_told_what_it_needs(&system);
    system.deploy("one", &["sim/instant"]).await;
    let id = system.submit("one").await;
    let done = system.ended(&id).await;
    let link = done["deliverables"][0]["url"].as_str().unwrap();
    assert!(link.starts_with(system.url()), "{link}");

    a_failed_restart_is_tried_again(&system).await;
    let pids = all_pids(&system);
    let status = system.end(Signal::SIGTERM).await;
    assert!(status.success(), "{status}");
    assert!(pids.iter().all(|(_, pid)| !is_alive(*pid)));
    assert!(!system.data().join("stack.json").exists());
}

fn facts_are_complete(system: &System) {
    let facts = &system.facts;
    assert_eq!(facts["publicUrls"].as_array().unwrap().len(), 2);
    for (name, start) in [
        ("adminUrl", "http://127.0.0.1:"),
        ("apiKey", "LEKH-"),
        ("adminToken", "ey"),
        ("engineId", "eng_"),
        ("simulatorUrl", "http://127.0.0.1:"),
        ("amqpUrl", "amqp://"),
        ("databaseUrl", "postgres://"),
    ] {
        assert!(facts[name].as_str().unwrap().starts_with(start), "{name}: {}", facts[name]);
    }
    let counts = ROLES.map(|role| system.pids(role).len());
    assert_eq!(counts, [2, 2, 3, 1, 1, 1]);
    let distinct: BTreeSet<i32> = all_pids(system).into_iter().map(|(_, pid)| pid).collect();
    assert_eq!(distinct.len(), 10);
    assert!(distinct.into_iter().all(is_alive));
}

async fn every_process_answers(system: &System) {
    for process in system.facts["processes"].as_array().unwrap() {
        let role = process["role"].as_str().unwrap();
        let Some(url) = process["internalUrl"].as_str() else {
            assert!(["postgres", "rabbitmq"].contains(&role), "{process}");
            continue;
        };
        let paths: &[&str] = if role == "simulator" { &["/livez"] } else { &["/livez", "/readyz", "/metrics"] };
        for path in paths {
            let response = system.http.get(format!("{url}{path}")).send().await.unwrap();
            assert_eq!(response.status(), 200, "{process} {path}");
        }
    }
}

fn every_role_is_told_what_it_needs(system: &System) {
    let told = |role: &str| -> BTreeSet<String> {
        let (_, pid) = system.pids(role).pop().unwrap();
        let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        let names = environment.split('\0').filter_map(|variable| variable.split('=').next());
        names.filter(|name| name.starts_with("LEKHIKA_")).map(str::to_owned).collect()
    };
    for role in ["gateway", "status", "executor", "simulator"] {
        let told = told(role);
        let knows = |name: &str| told.contains(&format!("LEKHIKA_{name}"));
        assert_eq!(knows("DATABASE_URL"), role == "status", "{role}: {told:?}");
        assert_eq!(knows("SERVICE_SECRET") && knows("AMQP_URL"), role != "simulator", "{role}: {told:?}");
        for name in ["KEY_PEPPER", "ADMIN_SECRET", "LINK_SECRET"] {
            assert_eq!(knows(name), role == "gateway", "{role}: {told:?}");
        }
        assert!(!knows("PUBLIC_URL") && !knows("FAILPOINT"), "{role}: {told:?}");
    }
}

/// A process that cannot be started now, here because its log cannot be opened.
async fn a_failed_restart_is_tried_again(system: &System) {
    let (name, pid) = system.pids("gateway").pop().unwrap();
    let (logs, away) = (system.data().join("logs"), system.data().join("logs.away"));
    std::fs::rename(&logs, &away).unwrap();
    kill(pid, Signal::SIGKILL);
    wait::until_true(WITHIN, "a failed restart", async || system.said().contains(&format!("{name} failed"))).await;
    std::fs::rename(&away, &logs).unwrap();

    wait::until_true(WITHIN, "the gateway back", async || {
        let now = system.pids("gateway").into_iter().find(|(known, _)| *known == name);
        now.is_some_and(|(_, now)| now != pid && is_alive(now))
    })
    .await;
    let base = system.facts["publicUrls"][1].as_str().unwrap();
    wait::until_true(WITHIN, "an answer of the gateway", async || {
        let request = system.http.request(Method::GET, format!("{base}/v1/me")).bearer_auth(system.key());
        request.send().await.is_ok_and(|response| response.status() == 200)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stack_on_the_same_folder_is_refused_and_changes_nothing() {
    let mut system = System::start(&["--gateways", "1", "--statuses", "1", "--executors", "1"]).await;
    let facts = |data: &Path| -> Value {
        serde_json::from_str(&std::fs::read_to_string(data.join("stack.json")).unwrap()).unwrap()
    };

    let second = lekhika().arg("stack").arg("--data-dir").arg(system.data()).output().unwrap();

    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process is using it"));
    assert_eq!(facts(&system.data()), system.facts);
    system.all_is_well().await;
    let pids = all_pids(&system);
    if hears_hangups() {
        assert!(system.end(Signal::SIGHUP).await.success());
        assert!(pids.iter().all(|(_, pid)| !is_alive(*pid)));
    }
}

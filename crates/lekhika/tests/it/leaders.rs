//! The leader dies at every step of its work: intake, release, claim, report, finish.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use serde_json::json;
use testkit::wait;

use crate::{
    members::Member,
    processes::kill,
    system::{System, WITHIN},
};

/// Every place at which a status process can be told to die.
const PLACES: [&str; 10] = [
    "intake.before_commit",
    "report.after_commit",
    "release.after_publish",
    "finish.before_commit",
    "claim.after_commit",
    "intake.after_commit",
    "release.before_publish",
    "report.before_commit",
    "intake.after_reply",
    "finish.after_commit",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_at_any_step_loses_nothing_and_repeats_nothing() {
    let system = System::start(&["--no-restart", "--executors", "2"]).await;
    system.deploy("three", &["sim/instant", "sim/tokens-20-rate-60", "sim/instant"]).await;
    let over = AtomicBool::new(false);
    let deaths = async {
        let leaders = deaths(&system).await;
        over.store(true, Ordering::SeqCst);
        leaders
    };

    let (all, _leaders) = tokio::join!(system.load("three", 20, 100, &over), deaths);

    println!("{} executions", all.len());
    system.accounted_for(&all).await;
    // No executor died: nothing that any leader acknowledged, or might have, is called again.
    for one in &all {
        let calls = system.calls(&one.id).await;
        assert_eq!(calls, json!({"step1/0": 1, "step2/0": 1, "step3/0": 1}), "{}", one.id);
    }
    system.all_is_well().await;
}

/// Two armed replicas; the place of each that dies is taken by one that is armed for the next step. Returns two that live.
async fn deaths(system: &System) -> [Member; 2] {
    for (_, pid) in system.pids("status") {
        kill(pid, Signal::SIGKILL);
    }
    let mut places = PLACES.into_iter();
    let mut armed: Vec<(&str, Member)> = Vec::new();
    for (name, place) in ["status-1", "status-2"].into_iter().zip(&mut places) {
        armed.push((place, system.status(name, Some(place)).await));
    }
    while !armed.is_empty() {
        let (at, how) = wait::until(WITHIN, "the death of a leader", async || {
            let ended = armed.iter_mut().enumerate().find_map(|(at, (_, member))| Some((at, member.ended()?)));
            ended.ok_or(())
        })
        .await;
        let (place, member) = armed.remove(at);
        let log = std::fs::read_to_string(system.data().join(format!("logs/{}.log", member.name))).unwrap();
        assert!(Member::died_by_itself(how), "{place}: {how}");
        assert!(log.contains(&format!("\"place\":\"{place}\"")), "{} died elsewhere than at {place}", member.name);
        if let Some(place) = places.next() {
            armed.push((place, system.status(&member.name, Some(place)).await));
        }
    }
    [system.status("status-1", None).await, system.status("status-2", None).await]
}

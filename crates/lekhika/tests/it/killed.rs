//! kill -9, of everything that there is.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use nix::sys::signal::Signal;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use testkit::wait;

use crate::{
    events::{Seen, Shown, assert_whole, texts},
    members::Member,
    parted,
    processes::kill,
    system::{System, WITHIN},
};

#[tokio::test(flavor = "multi_thread")]
async fn executors_that_die_are_cut_off_or_leave_are_replaced() {
    let system = System::start(&["--executors", "0"]).await;
    let survivor = another_resumes_at_the_step_in_which_one_was_killed(&system).await;
    clients_that_reconnect_see_every_event_once(&system, survivor).await;
    parted::a_partitioned_executor_changes_nothing(&system).await;
    parted::an_executor_that_is_told_to_end_gives_its_work_back(&system).await;
    system.all_is_well().await;
}

async fn another_resumes_at_the_step_in_which_one_was_killed(system: &System) -> Member {
    let first = system.executor("first", &[]).await;
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
        let second = system.executor("second", &[]).await;
        let killed_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        first.signal(Signal::SIGKILL);
        let called_at = wait::until(WITHIN, "step 2 at the other executor", async || {
            let times = system.times(&id).await["arrivedAt"]["step2/0"].clone();
            times[1].as_u64().map(Duration::from_millis).ok_or(times)
        })
        .await;
        let took = called_at.saturating_sub(killed_at);
        println!("step 2 began again {took:?} after the death of its executor");
        assert!(took < Duration::from_secs(1), "{took:?}");
        system.open("second").await;
        second
    };
    let (events, second) = tokio::join!(follow, murder);

    assert_eq!(system.ended(&id).await["status"], "completed");
    assert_whole(&events, "completed");
    assert_eq!(system.calls(&id).await, json!({"step1/0": 1, "step2/0": 2, "step3/0": 1}));
    // The simulator's text is a function of its prompt: an undisturbed run has the right one.
    let undisturbed = system.submit("gated").await;
    assert_eq!(texts(&events), texts(&system.stream(&undisturbed, 0).await));
    second
}

/// A client that follows three long units over the death of their executor, and 50 that reconnect at random ids of what it
/// saw, half of them while the second attempt runs, see the same.
async fn clients_that_reconnect_see_every_event_once(system: &System, first: Member) {
    deploy_wide(system).await;
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    println!("seed of the reconnects: {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let id = system.submit("wide").await;
    let live = Shown::default();
    let seen = || live.lock().unwrap().clone();
    let disturb = async {
        seen_so_many(&live, 60, |event| event.name == "output.delta").await;
        let _third = system.executor("third", &[]).await;
        first.signal(Signal::SIGKILL);
        let epoch = seen().last().unwrap().epoch();
        seen_so_many(&live, 20, |event| event.name == "output.delta" && event.epoch() > epoch).await;
        let known = seen();
        let from: Vec<i64> = (0..25).map(|_| known[random.random_range(..known.len())].sequence).collect();
        let late = from.iter().enumerate().map(async |(number, after)| {
            let events = system.stream_at(number, &id, *after).await;
            (*after, events)
        });
        futures::future::join_all(late).await
    };
    let ((), during) = tokio::join!(system.follow(0, &id, 0, &live), disturb);

    let all = seen();
    assert_whole(&all, "completed");
    assert!(all.iter().filter(|event| event.name == "output.delta").count() >= 200, "{} events", all.len());
    assert!(all.iter().any(|event| event.name == "output.reset"), "the second attempt begins the units anew");
    assert_eq!(system.stream_at(1, &id, 0).await, all, "live and replayed are the same");
    let tail = |after: i64| all.iter().filter(|event| event.sequence > after).cloned().collect::<Vec<Seen>>();
    for (after, events) in during {
        assert_eq!(events, tail(after), "after {after}, during the second attempt");
    }
    for number in 0..25 {
        let after = all[random.random_range(..all.len())].sequence;
        assert_eq!(system.stream_at(number, &id, after).await, tail(after), "after {after}, when all was over");
    }
}

async fn deploy_wide(system: &System) {
    let mut nodes = vec![json!({"id": "form", "type": "input", "fields": [
        {"name": "topic", "label": "Topic", "type": "text", "required": true}
    ]})];
    let mut edges = Vec::new();
    for id in ["left", "middle", "right"] {
        let prompt = format!("Write about the {id} of {{{{ input.topic }}}}.");
        nodes.push(json!({"id": id, "type": "generate", "model": "sim/tokens-400-rate-100", "prompt": prompt}));
        edges.extend([json!({"from": "form", "to": id}), json!({"from": id, "to": "out"})]);
    }
    let sections = json!([{"node": "left"}, {"node": "middle"}, {"node": "right"}]);
    nodes.push(json!({"id": "out", "type": "output", "document": {"title": "{{ input.topic }}"},
        "sections": sections, "formats": ["md"]}));
    system.deploy_nodes("wide", &nodes, &edges).await;
}

async fn seen_so_many(shown: &Shown, count: usize, which: impl Fn(&Seen) -> bool) {
    wait::until(WITHIN, "events", async || {
        let seen = shown.lock().unwrap().iter().filter(|event| which(event)).count();
        if seen >= count { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_executions_survive_the_death_of_every_service_and_server() {
    let system = System::start(&["--slots", "8"]).await;
    system.deploy("two", &["sim/instant", "sim/tokens-20-rate-40"]).await;
    let over = AtomicBool::new(false);
    let chaos = async {
        for role in ["status", "gateway", "rabbitmq", "postgres"] {
            busy(&system).await;
            let before = system.pids(role);
            // Of the two gateways and the two status replicas none is left.
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
        busy(&system).await;
        over.store(true, Ordering::SeqCst);
    };

    let (all, ()) = tokio::join!(system.load("two", 60, 300, &over), chaos);

    println!("{} executions", all.len());
    assert!(all.len() >= 300);
    system.accounted_for(&all).await;
    system.all_is_well().await;
}

/// Every executor is full and others wait.
async fn busy(system: &System) {
    wait::until(WITHIN, "executions that run and executions that wait", async || {
        let leader = system.leader().await;
        let running = system.metric(&leader, "lekhika_running").await;
        let queued = system.metric(&leader, "lekhika_queue_depth").await;
        if running > Some(0.0) && queued > Some(0.0) { Ok(()) } else { Err((running, queued)) }
    })
    .await;
}

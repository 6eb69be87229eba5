//! A load that goes on: each client has one execution under way, follows it to its end, and submits the next.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::wait;

use crate::{
    events::{Seen, Shown, assert_whole},
    system::{System, WITHIN},
};

/// What a client knows of an execution that was accepted.
pub struct Followed {
    pub id: String,
    pub events: Vec<Seen>,
}

impl System {
    /// So many clients, until it is over and at least so many executions are done.
    pub async fn load(&self, engine: &str, clients: usize, at_least: usize, over: &AtomicBool) -> Vec<Followed> {
        let number = AtomicUsize::new(0);
        let client = async |gateway: usize| {
            let mut followed = Vec::new();
            loop {
                let number = number.fetch_add(1, Ordering::SeqCst);
                if number >= at_least && over.load(Ordering::SeqCst) {
                    return followed;
                }
                let id = self.accepted(gateway, engine, number).await;
                let shown = Shown::default();
                self.follow(gateway, &id, 0, &shown).await;
                followed.push(Followed { id, events: std::mem::take(&mut shown.lock().unwrap()) });
            }
        };
        futures::future::join_all((0..clients).map(client)).await.into_iter().flatten().collect()
    }

    /// Submits until it is accepted: with a key each second time, so that one try in doubt is no second execution.
    async fn accepted(&self, gateway: usize, engine: &str, number: usize) -> String {
        wait::until(WITHIN, "an accepted submission", async || {
            let mut request = self.request_at(gateway, Method::POST, &format!("/v1/engines/{engine}/execute"));
            if number.is_multiple_of(2) {
                request = request.header("idempotency-key", format!("load-{number}"));
            }
            let request = request.json(&json!({"input": {"topic": "bees"}})).timeout(Duration::from_secs(10));
            match request.send().await {
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

    /// Every accepted execution is another one, it is completed, its client saw its log as it is, with one end.
    pub async fn accounted_for(&self, all: &[Followed]) {
        let distinct: BTreeSet<&String> = all.iter().map(|one| &one.id).collect();
        assert_eq!(distinct.len(), all.len());
        let check = async |one: &Followed| {
            assert_eq!(self.ended(&one.id).await["status"], "completed", "{}", one.id);
            assert_whole(&one.events, "completed");
            assert_eq!(self.stream(&one.id, 0).await, one.events, "{}: live and replayed are the same", one.id);
        };
        futures::stream::iter(all.iter().map(check)).buffer_unordered(8).collect::<Vec<()>>().await;
    }
}

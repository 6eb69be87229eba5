//! A stream of events, as a client sees it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt as _;
use reqwest::{Method, Response};
use serde_json::Value;

use crate::system::{System, WITHIN};

/// What a stream has shown so far, for who looks at it while it goes on.
pub type Shown = Arc<Mutex<Vec<Seen>>>;

impl System {
    /// All events of a stream after an id, to its end.
    pub async fn stream(&self, id: &str, after: i64) -> Vec<Seen> {
        self.stream_at(0, id, after).await
    }

    pub async fn stream_at(&self, gateway: usize, id: &str, after: i64) -> Vec<Seen> {
        let shown = Shown::default();
        self.follow(gateway, id, after, &shown).await;
        let mut shown = shown.lock().unwrap();
        std::mem::take(&mut *shown)
    }

    /// Collects the events after an id until the last one. A gateway or the leader may be gone for a moment: it comes back
    /// with the last id, as EventSource does.
    pub async fn follow(&self, gateway: usize, id: &str, after: i64, shown: &Shown) {
        let deadline = tokio::time::Instant::now() + WITHIN;
        while tokio::time::Instant::now() < deadline {
            let last = shown.lock().unwrap().last().map_or(after, |event| event.sequence);
            let request = self.request_at(gateway, Method::GET, &format!("/v1/executions/{id}/events"));
            let request = request.header("accept", "text/event-stream").header("last-event-id", last.to_string());
            if let Ok(response) = request.send().await {
                assert_ne!(response.status(), 404, "{id} was accepted");
                if response.status() == 204 {
                    return;
                }
                if response.status() == 200 {
                    read(response, shown).await;
                }
                if shown.lock().unwrap().last().is_some_and(Seen::is_terminal) {
                    return;
                }
            }
            // Sleeps: the time after which EventSource connects again.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the stream of {id} does not end: {:?}", shown.lock().unwrap().last());
    }

    /// What is in the log now.
    pub async fn log(&self, id: &str) -> Value {
        self.get(&format!("/v1/executions/{id}/events?pageSize=1000")).await["data"].clone()
    }
}

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub sequence: i64,
    pub name: String,
    pub data: Value,
}

impl Seen {
    pub fn is_terminal(&self) -> bool {
        domain::event::is_terminal_name(&self.name)
    }

    /// The epoch of whoever wrote it.
    pub fn epoch(&self) -> i64 {
        self.sequence >> 32
    }
}

/// Every event once and in order, the last one and no other the end, which has this name.
pub fn assert_whole(events: &[Seen], end: &str) {
    assert_eq!(events[0].data["prev"], 0);
    for pair in events.windows(2) {
        assert_eq!(pair[1].data["prev"], pair[0].sequence, "{pair:?}");
    }
    let ends: Vec<&str> = events.iter().filter(|event| event.is_terminal()).map(|event| event.name.as_str()).collect();
    assert_eq!(ends, [format!("execution.{end}")]);
    assert!(events.last().unwrap().is_terminal());
}

async fn read(response: Response, shown: &Shown) {
    let mut parser = providers::sse::SseParser::default();
    let mut stream = response.bytes_stream();
    while let Some(Ok(bytes)) = stream.next().await {
        for event in parser.push(&bytes).unwrap() {
            let data: Value = serde_json::from_str(&event.data).unwrap();
            if let Some(sequence) = data["sequence"].as_i64() {
                shown.lock().unwrap().push(Seen { sequence, name: event.event.unwrap_or_default(), data });
            }
        }
    }
}

/// The text of each unit, as a client that applies resets ends with it.
pub fn texts(events: &[Seen]) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for event in events {
        let unit = format!("{}/{}", event.data["node"].as_str().unwrap_or_default(), event.data["unit"]);
        let offset = usize::try_from(event.data["offset"].as_u64().unwrap_or_default()).unwrap();
        match event.name.as_str() {
            "output.delta" => {
                let text: &mut String = texts.entry(unit).or_default();
                assert_eq!(text.chars().count(), offset, "a delta lies at the end of the text");
                text.push_str(event.data["text"].as_str().unwrap());
            }
            "output.reset" => {
                let text = texts.entry(unit).or_default();
                *text = text.chars().take(offset).collect();
            }
            _ => {}
        }
    }
    texts
}

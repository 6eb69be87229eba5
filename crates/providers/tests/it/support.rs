//! Starting a simulator or a fixture, asking it, and waiting with a deadline.

use std::{
    future::Future,
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::Usage;
use futures::StreamExt as _;
use providers::{
    ChatRequest, FinishReason, LanguageModel as _, LimitState, Message, ModelEvent, ProviderError, Timeouts,
    openai::{Dialect, OpenAiChat},
    simulator::{self, RunningSimulator, SimulatorConfig},
};
use secrecy::SecretString;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// No test waits longer for anything.
pub const DEADLINE: Duration = Duration::from_secs(10);

pub const FAST: Timeouts =
    Timeouts { connect: Duration::from_secs(2), first_byte: Duration::from_secs(5), idle: Duration::from_millis(400) };

/// A simulator that stops with the test.
pub struct System {
    pub simulator: RunningSimulator,
    pub model: OpenAiChat,
    http: reqwest::Client,
    _stop: DropGuard,
}

impl System {
    pub async fn start() -> Self {
        Self::with(SimulatorConfig::default(), FAST).await
    }

    pub async fn with(config: SimulatorConfig, timeouts: Timeouts) -> Self {
        let stop = CancellationToken::new();
        let simulator = simulator::run(config, stop.clone()).await.unwrap();
        let model = connect(simulator.address(), Dialect::default(), timeouts);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { simulator, model, http, _stop: stop.drop_guard() }
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.simulator.url())).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.simulator.url())).body(body.to_string());
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    pub async fn stats(&self) -> Value {
        self.get("/stats").await
    }
}

pub fn connect(address: SocketAddr, dialect: Dialect, timeouts: Timeouts) -> OpenAiChat {
    OpenAiChat::new(&format!("http://{address}"), &SecretString::from("sk-test"), dialect, timeouts).unwrap()
}

pub fn request(model: &str) -> ChatRequest {
    ChatRequest {
        model: model.into(),
        messages: vec![Message::user("Write about 60 words on tidal mills.")],
        request_id: "exec_1/write/0/1".into(),
        ..ChatRequest::default()
    }
}

/// Everything one call yielded.
#[derive(Debug, Default)]
pub struct Collected {
    pub text: String,
    pub reasoning: String,
    pub usage: Option<Usage>,
    pub usage_events: usize,
    pub limits: Option<LimitState>,
    pub request_id: Option<String>,
    pub finish: Option<(FinishReason, String)>,
    pub error: Option<ProviderError>,
}

pub async fn ask(model: &OpenAiChat, request: ChatRequest) -> Collected {
    let mut all = Collected::default();
    let mut stream = model.stream(request);
    while let Some(event) = soon(stream.next()).await {
        assert!(all.error.is_none(), "something came after the error");
        assert!(all.finish.is_none(), "something came after the end");
        match event {
            Ok(ModelEvent::Opened { request_id }) => all.request_id = request_id,
            Ok(ModelEvent::Limits(limits)) => all.limits = Some(limits),
            Ok(ModelEvent::Text(text)) => all.text.push_str(&text),
            Ok(ModelEvent::Reasoning(text)) => all.reasoning.push_str(&text),
            Ok(ModelEvent::Usage { usage, .. }) => {
                all.usage = Some(usage);
                all.usage_events += 1;
            }
            Ok(ModelEvent::Finish { reason, raw }) => all.finish = Some((reason, raw)),
            Err(error) => all.error = Some(error),
        }
    }
    assert!(all.finish.is_some() != all.error.is_some(), "a stream ends with its end or an error: {all:?}");
    all
}

pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("it took too long")
}

/// Asks again until `done`; how long that took.
pub async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) -> Duration {
    let began = Instant::now();
    while !done().await {
        assert!(began.elapsed() < DEADLINE, "{what} did not happen");
        // Sleeps: between two looks.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}

/// A server that answers every request on every connection with these bytes and closes.
pub async fn fixture(head: &str, body: &[u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = [head.replace('\n', "\r\n").as_bytes(), b"\r\n\r\n", body].concat();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 64 * 1024];
                let _ = socket.read(&mut request).await;
                let _ = socket.write_all(&answer).await;
            });
        }
    });
    address
}

/// A stream of these events, closed at its end.
pub async fn stream_of(events: &str) -> SocketAddr {
    fixture("HTTP/1.1 200 OK\ncontent-type: text/event-stream\nconnection: close", events.as_bytes()).await
}

//! A provider without a model: a real HTTP server of the OpenAI chat dialect, whose text is a function of
//! (seed, model, messages) alone. Tests, the benchmark and `lekhika dev` ask it instead of a real provider.
//!
//! # Models (with or without `sim/` in front)
//! | model | what it does |
//! |---|---|
//! | `writer` (or `default`) | every answer takes about [`SimulatorConfig::writer_duration`], whatever its length |
//! | `instant` | no delay: the whole answer in one write |
//! | `slow` | 20 tokens a second, at least 600 tokens of text (not of JSON) |
//! | `tokens-N-rate-R` | exactly N tokens, R a second (R = 0: at once) |
//! | `fault-Fxx` | a row of the fault matrix, see below |
//! | `fault-Fxx-once` | the same for the first call of a unit (`exec/node/unit`), a proper answer from the second on |
//! | `gate-NAME` | 5 tokens, then nothing until `POST /gates/NAME/open`, then the rest |
//! | `gate-NAME-after-K` | the first K calls of an execution with this model are answered at once, later ones hold |
//!
//! Faults: F01 happy; F02 no usage; F03 zero usage; F04 429 with `retry-after: 2` (`F04-ms` adds `retry-after-ms: 1500`,
//! `F04-date` is a date 2 s ahead), always with the second call of a unit answered properly; F05 429 `insufficient_quota`;
//! F06 503 (`F06-529`); F07 an error event after 10 tokens; F08 the connection closed after 40 of 60 tokens; F09 silence
//! after 20 tokens; F10 one malformed event; F11 cut at every byte; F12 all line ends, comments, a byte order mark, data
//! of several lines; F13 comments for a long time before the text; F17 NUL, half characters, an event of 1 MB, 10 MB in
//! all; F18 a long stream to be stopped; F19 complete, then sending on for ever; F20 headers after
//! [`SimulatorConfig::slow_headers`]; F21 404 for the model; F22 cached and reasoning tokens; F23 usage on every chunk;
//! F24 429 with `retry-after: 3600`; F25 an HTML page.
//!
//! What a prompt asks for is honoured a little: "about N words", a heading when it speaks of a chapter, an instance of
//! the JSON Schema in `response_format` ("N chapters" gives the length of a list `chapters`), `max_tokens`.
//!
//! # Paths
//! `POST /v1/chat/completions` (streamed or not), `GET /v1/models`, `GET /livez`,
//! `GET /stats` -> `{requests, open, closedByClient, byExecution: {id: {"node/unit": calls}}}` (`?execution=exec_..` for one,
//! with `arrivedAt` and `closedAt` (closed by the client): `{"node/unit": [milliseconds since 1970]}`),
//! `POST /stats/reset`, `GET /gates/NAME` -> `{name, open, waiting}`, `POST /gates/NAME/open`, `POST /gates/NAME/close`.

mod ask;
mod body;
mod chunks;
mod compose;
mod faults;
mod gates;
mod instance;
mod model;
mod prose;
mod server;
mod stats;
mod words;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpSocket;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::server::Simulator;
use crate::ChatRequest;

/// Connections that may wait to be accepted: thousands of calls begin at the same time, and one that finds no room here tries
/// again a second later.
const BACKLOG: u32 = 4_096;

/// How the simulator behaves.
#[derive(Debug, Clone)]
pub struct SimulatorConfig {
    /// Where it listens; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Another seed, other texts.
    pub seed: u64,
    /// Executions in `/stats`' `byExecution`: the oldest are forgotten. 0 counts none (for benchmarks).
    pub tracked_executions: usize,
    /// Until the first token of `writer`.
    pub writer_first_token: Duration,
    /// From the first to the last token of `writer`.
    pub writer_duration: Duration,
    /// Tokens per second of `slow`.
    pub slow_rate: f64,
    /// F20: until the headers come.
    pub slow_headers: Duration,
    /// F13: between two comments; 36 of them come.
    pub heartbeat: Duration,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            seed: 1,
            tracked_executions: 200_000,
            writer_first_token: Duration::from_millis(120),
            writer_duration: Duration::from_millis(800),
            slow_rate: 20.0,
            slow_headers: Duration::from_secs(60),
            heartbeat: Duration::from_secs(5),
        }
    }
}

/// A simulator that serves until its token is cancelled.
#[derive(Debug, Clone)]
pub struct RunningSimulator {
    address: SocketAddr,
    tasks: TaskTracker,
}

impl RunningSimulator {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL for a connection.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns when it has stopped after its token was cancelled.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

/// Starts a simulator; it serves when this returns, until `shutdown` is cancelled.
///
/// # Errors
/// When the address cannot be bound.
pub async fn run(config: SimulatorConfig, shutdown: CancellationToken) -> io::Result<RunningSimulator> {
    let socket = if config.bind.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(config.bind)?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    let tasks = TaskTracker::new();
    let simulator = Arc::new(Simulator::new(config));
    tasks.spawn(server::serve(simulator, listener, shutdown, tasks.clone()));
    tasks.close();
    Ok(RunningSimulator { address, tasks })
}

/// Whether there is a model of this name, with or without `sim/` in front.
#[must_use]
pub fn knows_model(name: &str) -> bool {
    model::Model::parse(name).is_some()
}

/// What a simulator with this seed answers to `request`.
#[must_use]
pub fn answer(seed: u64, request: &ChatRequest) -> String {
    compose::compose(seed, &ask::Ask::from(request)).text().to_owned()
}

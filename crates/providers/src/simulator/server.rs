//! The HTTP server: hyper itself, because a provider must notice at once that its client has closed, also in silence.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::RwLock;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    SimulatorConfig,
    ask::Ask,
    body::{Answer, Player, Step},
    chunks::{Chunks, Told, error, instant, whole},
    compose::{Composed, compose},
    faults,
    gates::Gates,
    model::{Fault, LISTED, Model},
    stats::{OpenCall, Stats, parts_of},
};

const MAX_BODY: usize = 32 * 1024 * 1024;
/// Ready answers of `instant`, by the hash of the whole request.
const MAX_READY: usize = 2048;
/// Larger requests are not worth their place.
const MAX_READY_BODY: usize = 64 * 1024;

type Reply = Response<Answer>;

/// Everything connections share.
pub(super) struct Simulator {
    config: SimulatorConfig,
    stats: Arc<Stats>,
    gates: Gates,
    ready: RwLock<HashMap<[u8; 32], Bytes>>,
}

/// Accepts until `shutdown`; open connections are dropped then.
pub(super) async fn serve(
    simulator: Arc<Simulator>,
    listener: TcpListener,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _peer)) = accepted else {
            // Out of file handles: they come back when connections close.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = socket.set_nodelay(true);
        let simulator = Arc::clone(&simulator);
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            let service = service_fn(move |request| Arc::clone(&simulator).reply(request));
            let connection =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service);
            tokio::select! {
                () = shutdown.cancelled() => {}
                // Clients that close in the middle are the subject here, not an error.
                _ = connection => {}
            }
        });
    }
}

impl Simulator {
    pub(super) fn new(config: SimulatorConfig) -> Self {
        let stats = Arc::new(Stats::new(config.tracked_executions));
        Self { config, stats, gates: Gates::default(), ready: RwLock::default() }
    }

    /// `Err` closes the connection without an answer.
    async fn reply(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Reply> {
        let path = request.uri().path();
        if request.method() == Method::POST && path.ends_with("/chat/completions") {
            return self.chat(request).await;
        }
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let reply = match (request.method().as_str(), parts.as_slice()) {
            ("GET", ["livez" | "readyz"]) => json_reply(&json!({"status": "ok"})),
            ("GET", ["stats"]) => {
                let query = request.uri().query().unwrap_or_default();
                let one = query.split('&').find_map(|pair| pair.strip_prefix("execution="));
                json_reply(&self.stats.shown(one))
            }
            ("POST", ["stats", "reset"]) => {
                self.stats.reset();
                json_reply(&self.stats.shown(None))
            }
            ("GET", ["gates", name]) => self.gate(name, None),
            ("POST", ["gates", name, "open"]) => self.gate(name, Some(true)),
            ("POST", ["gates", name, "close"]) => self.gate(name, Some(false)),
            ("GET", ["v1", "models"] | ["models"]) => {
                let models: Vec<Value> = LISTED.iter().map(|id| model_object(id)).collect();
                json_reply(&json!({"object": "list", "data": models}))
            }
            ("GET", ["v1", "models", id @ ..]) if Model::parse(&id.join("/")).is_some() => {
                json_reply(&model_object(&id.join("/")))
            }
            _ => error_reply(StatusCode::NOT_FOUND, "not_found", "There is nothing here."),
        };
        Ok(reply)
    }

    fn gate(&self, name: &str, open: Option<bool>) -> Reply {
        let gate = self.gates.named(name);
        if let Some(open) = open {
            gate.set_open(open);
        }
        json_reply(&json!({"name": name, "open": gate.is_open(), "waiting": gate.waiting()}))
    }

    async fn chat(&self, request: Request<Incoming>) -> io::Result<Reply> {
        let request_id = request.headers().get("x-client-request-id").cloned();
        let request_id = request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
        let traceparent = request.headers().get("traceparent").and_then(|context| context.to_str().ok());
        let number = self.stats.called(request_id, traceparent);
        let call = OpenCall::new(Arc::clone(&self.stats), request_id);
        let body = Limited::new(request.into_body(), MAX_BODY).collect().await.map_err(io::Error::other)?.to_bytes();
        let mut reply = self.answer(&body, request_id, call).await?;
        if let Ok(id) = HeaderValue::try_from(format!("req_sim_{number}")) {
            reply.headers_mut().insert("x-request-id", id);
        }
        Ok(reply)
    }

    async fn answer(&self, body: &Bytes, request_id: &str, mut call: OpenCall) -> io::Result<Reply> {
        let key: [u8; 32] = Sha256::digest(body).into();
        if let Some(ready) = self.ready.read().get(&key) {
            call.complete();
            return Ok(stream_reply(ready.clone().into()));
        }
        let ask = match Ask::parse(body) {
            Ok(ask) => ask,
            Err(reason) => {
                call.complete();
                return Ok(error_reply(StatusCode::BAD_REQUEST, "invalid_json", &reason));
            }
        };
        let Some(mut model) = Model::parse(&ask.model) else {
            call.complete();
            return Ok(error_reply(StatusCode::NOT_FOUND, "model_not_found", "There is no such model."));
        };
        if self.plays_fair_this_time(&model, &ask.model, request_id, &key) {
            model = Model::Instant;
        }
        let composed = compose(self.config.seed, &ask);
        if model == Model::Instant {
            call.complete();
            return Ok(self.at_once(&ask, &composed, key, body.len()));
        }
        if let Model::Fault { fault, variant, .. } = model
            && let Some(refusal) = faults::refusal(fault, variant)
        {
            call.complete();
            return Ok(refused(refusal));
        }
        self.play(&model, &ask, composed, call).await
    }

    /// Whether a scripted model gives this call a plain answer.
    fn plays_fair_this_time(&self, model: &Model, name: &str, request_id: &str, key: &[u8; 32]) -> bool {
        match model {
            Model::Fault { once: true, .. } => {
                let (execution, unit) = parts_of(request_id);
                // Without our name of the call, the same request is the same unit.
                let unit = if request_id.is_empty() { format!("{key:02x?}") } else { format!("{execution}/{unit}") };
                self.stats.scripted(&unit, name) > 1
            }
            Model::Gate { after, .. } if *after > 0 => self.stats.scripted(parts_of(request_id).0, name) <= *after,
            _ => false,
        }
    }

    fn at_once(&self, ask: &Ask, composed: &Composed, key: [u8; 32], size: usize) -> Reply {
        let told = told(ask, Told::Counted);
        if !ask.stream {
            return with_type(StatusCode::OK, "application/json", whole(&ask.model, composed, Told::Counted).into());
        }
        let bytes = instant(&ask.model, composed, told);
        // Only of the model that never answers differently.
        if size <= MAX_READY_BODY && Model::parse(&ask.model) == Some(Model::Instant) {
            let mut ready = self.ready.write();
            if ready.len() >= MAX_READY {
                ready.clear();
            }
            ready.insert(key, bytes.clone());
        }
        stream_reply(bytes.into())
    }

    async fn play(&self, model: &Model, ask: &Ask, composed: Composed, call: OpenCall) -> io::Result<Reply> {
        let told = match model {
            Model::Fault { fault, .. } => told(ask, faults::told(*fault)),
            _ => told(ask, Told::Counted),
        };
        let chunks = Chunks::new(&ask.model, &composed, told);
        let steps = self.steps(model, &composed, &chunks);
        if matches!(model, Model::Fault { fault: Fault::F20, .. }) {
            tokio::time::sleep(self.config.slow_headers).await;
        }
        if ask.stream {
            return Ok(stream_reply(Answer::played(Player::new(steps, composed, chunks, call))));
        }
        let body = whole(&ask.model, &composed, if told == Told::Nothing { Told::Counted } else { told });
        let mut pieces = std::pin::pin!(Player::new(steps, composed, chunks, call).stream());
        while let Some(piece) = pieces.next().await {
            piece?;
        }
        Ok(with_type(StatusCode::OK, "application/json", body.into()))
    }

    fn steps(&self, model: &Model, composed: &Composed, chunks: &Chunks) -> Vec<Step> {
        let config = &self.config;
        match model {
            Model::Slow => {
                let every = faults::every(config.slow_rate);
                faults::paced(composed, chunks, Duration::ZERO, every)
            }
            Model::Tokens { rate, .. } => {
                faults::paced(composed, chunks, Duration::ZERO, faults::every(f64::from(*rate)))
            }
            Model::Fault { fault, .. } => faults::stream(*fault, config, composed, chunks),
            Model::Gate { name, .. } => {
                let mut steps = faults::paced(composed, chunks, Duration::ZERO, Duration::ZERO);
                let held = [
                    Step::Tokens { until: 5, every: Duration::ZERO, with_usage: false },
                    Step::Hold(self.gates.named(name)),
                ];
                // After the role and the empty pause.
                steps.splice(2..2, held);
                steps
            }
            Model::Writer | Model::Instant => {
                let tokens = u32::try_from(composed.tokens()).unwrap_or(u32::MAX).max(1);
                faults::paced(composed, chunks, config.writer_first_token, config.writer_duration / tokens)
            }
        }
    }
}

/// A stream tells usage only to those who ask.
fn told(ask: &Ask, told: Told) -> Told {
    if ask.stream && !ask.include_usage { Told::Nothing } else { told }
}

fn model_object(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": 1_790_000_000, "owned_by": "lekhika-simulator"})
}

fn with_type(status: StatusCode, kind: &'static str, body: Answer) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

fn stream_reply(body: Answer) -> Reply {
    with_type(StatusCode::OK, "text/event-stream; charset=utf-8", body)
}

fn json_reply(value: &Value) -> Reply {
    with_type(StatusCode::OK, "application/json", Bytes::from(value.to_string()).into())
}

fn error_reply(status: StatusCode, code: &str, message: &str) -> Reply {
    with_type(status, "application/json", error("invalid_request_error", code, message).into())
}

fn refused(refusal: faults::Refusal) -> Reply {
    let mut reply = with_type(refusal.status, "application/json", refusal.body.into());
    for (name, value) in refusal.headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            reply.headers_mut().insert(name, value);
        }
    }
    reply
}

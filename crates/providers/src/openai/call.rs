//! One call from its connection to its end.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Shared, answer::Answer, failure, headers, request};
use crate::{
    ChatRequest, ErrorClass, ModelEvent, ProviderError,
    sse::{SseError, SseParser},
    transport::{Wire, lost},
};

/// The largest body that is not a stream.
const MAX_BODY: usize = 32 * 1024 * 1024;
/// Enough of an error body to classify it and to fill the detail.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// How long an error's body may take: its status alone says most.
const ERROR_BODY_WAIT: Duration = Duration::from_secs(5);
/// After the terminal marker, how long the end of the body may take for the connection to be kept.
const TAIL_WAIT: Duration = Duration::from_millis(50);

enum Phase {
    Start(Box<ChatRequest>),
    Reading(Box<Open>),
    /// Everything is said; the connection may be kept if its body ends at once.
    Tail(Box<Open>),
    Over,
}

struct Open {
    wire: Wire,
    body: Incoming,
    parser: SseParser,
    /// Until the first byte of the body came.
    first_byte_by: Option<Instant>,
    is_stream: bool,
}

/// The state of one model call. Dropping it closes the connection.
pub(super) struct Call {
    shared: Arc<Shared>,
    phase: Phase,
    answer: Answer,
    request_id: Option<String>,
}

impl Call {
    pub(super) fn new(shared: Arc<Shared>, request: ChatRequest) -> Self {
        Self { shared, phase: Phase::Start(Box::new(request)), answer: Answer::default(), request_id: None }
    }

    /// The next event; `None` after the last one or after an error.
    pub(super) async fn next(&mut self) -> Option<Result<ModelEvent, ProviderError>> {
        loop {
            if let Some(event) = self.answer.pop() {
                return Some(Ok(event));
            }
            match self.step().await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(mut error) => {
                    // The events before the failure were delivered; the socket is closed with the phase.
                    self.phase = Phase::Over;
                    error.request_id = error.request_id.or_else(|| self.request_id.take());
                    return Some(Err(error));
                }
            }
        }
    }

    /// Does what comes next; `false` when nothing does.
    async fn step(&mut self) -> Result<bool, ProviderError> {
        if let Some(failure) = self.answer.take_failure() {
            return Err(failure);
        }
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Start(request) => {
                let open = self.open(*request).await?;
                self.phase = Phase::Reading(open);
                Ok(true)
            }
            Phase::Reading(mut open) => {
                let ended = if open.is_stream {
                    self.read_stream(&mut open).await?
                } else {
                    let body = read_body(&mut open, MAX_BODY, self.shared.timeouts.idle).await?;
                    self.answer.take_body(&String::from_utf8_lossy(&body), &self.shared.counters);
                    true
                };
                self.phase = if ended { self.end(open)? } else { Phase::Reading(open) };
                Ok(true)
            }
            Phase::Tail(mut open) => {
                let end = timeout(TAIL_WAIT, open.wire.piece(&mut open.body)).await;
                if matches!(end, Ok(None)) {
                    self.shared.transport.keep(open.wire);
                }
                Ok(false)
            }
            Phase::Over => Ok(false),
        }
    }

    async fn open(&mut self, request: ChatRequest) -> Result<Box<Open>, ProviderError> {
        let body = request::body(&request, self.shared.dialect)?;
        let request_id = HeaderValue::try_from(&request.request_id)
            .map_err(|error| ProviderError::new(ErrorClass::InvalidRequest, "bad_request_id", error.to_string()))?;
        // A trace context that is no header is left out: telemetry fails no call.
        let traceparent = request.traceparent.as_deref().and_then(|context| HeaderValue::try_from(context).ok());
        drop(request);
        let timeouts = self.shared.timeouts;
        // A slow connection has its own limit and does not eat from the model's.
        let first_byte_by = Instant::now() + timeouts.connect + timeouts.first_byte;
        let sent = self.shared.transport.send(|| self.shared.chat(body.clone(), &request_id, traceparent.as_ref()));
        let (wire, response) = in_time(timeout(timeouts.first_byte, sent).await, "first_byte_timeout")??;
        self.request_id = headers::request_id(response.headers());
        if response.status() != http::StatusCode::OK {
            return Err(refused(&self.shared, wire, response).await);
        }
        let is_stream = is_stream(response.headers())?;
        self.answer.push(ModelEvent::Opened { request_id: self.request_id.clone() });
        let limits = headers::limits(response.headers());
        if limits.is_known() {
            self.answer.push(ModelEvent::Limits(limits));
        }
        let body = response.into_body();
        let parser = SseParser::default();
        Ok(Box::new(Open { wire, body, parser, first_byte_by: Some(first_byte_by), is_stream }))
    }

    /// Reads one piece; `true` when there is nothing more to read.
    async fn read_stream(&mut self, open: &mut Open) -> Result<bool, ProviderError> {
        let piece = open.wire.piece(&mut open.body);
        let piece = match open.first_byte_by {
            Some(by) => in_time(timeout_at(by, piece).await, "first_byte_timeout")?,
            None => in_time(timeout(self.shared.timeouts.idle, piece).await, "idle_timeout")?,
        };
        let counters = &self.shared.counters;
        match piece {
            Some(Ok(bytes)) => {
                open.first_byte_by = None;
                let answer = &mut self.answer;
                open.parser.feed(&bytes, |event| answer.take(event.data, counters)).map_err(too_large)?;
                Ok(self.answer.is_over())
            }
            None => {
                if let Some(event) = open.parser.finish() {
                    counters.unterminated_events.fetch_add(1, Ordering::Relaxed);
                    self.answer.take(&event.data, counters);
                }
                Ok(true)
            }
            Some(Err(error)) => {
                // The text is complete if its reason to end was seen; otherwise it is truncated.
                tracing::debug!(error = %error.chain(), "a provider broke the connection in its answer");
                Ok(true)
            }
        }
    }

    /// The answer is over: its last event, and what becomes of the connection.
    fn end(&mut self, open: Box<Open>) -> Result<Phase, ProviderError> {
        if self.answer.has_failed() {
            return Ok(Phase::Over);
        }
        self.answer.end()?;
        Ok(Phase::Tail(open))
    }
}

fn in_time<T>(result: Result<T, tokio::time::error::Elapsed>, code: &str) -> Result<T, ProviderError> {
    result.map_err(|_elapsed| ProviderError::network(code, "the provider was silent for too long"))
}

fn too_large(error: SseError) -> ProviderError {
    ProviderError::network("answer_too_large", error.to_string())
}

/// Whether a successful answer is a stream or one body. A page of a proxy is neither.
fn is_stream(headers: &HeaderMap) -> Result<bool, ProviderError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => Ok(false),
        "text/html" | "application/xhtml+xml" => {
            Err(ProviderError::network("unexpected_content_type", format!("the answer is {kind}: a proxy's page?")))
        }
        _ => Ok(true),
    }
}

/// The failure of an error status, with as much of its body as helps.
async fn refused(shared: &Shared, mut wire: Wire, response: Response<Incoming>) -> ProviderError {
    let (head, mut body) = response.into_parts();
    let mut text = BytesMut::new();
    let reading = async {
        while text.len() <= MAX_ERROR_BODY {
            match wire.piece(&mut body).await {
                Some(Ok(piece)) => text.extend_from_slice(&piece),
                // A body that breaks off changes nothing: the status says most.
                Some(Err(_)) => return false,
                None => return true,
            }
        }
        false
    };
    if timeout(ERROR_BODY_WAIT, reading).await == Ok(true) {
        shared.transport.keep(wire);
    }
    failure::of_response(head.status, &head.headers, &String::from_utf8_lossy(&text))
}

async fn read_body(open: &mut Open, limit: usize, idle: Duration) -> Result<Bytes, ProviderError> {
    let mut all = BytesMut::new();
    loop {
        let piece = open.wire.piece(&mut open.body);
        let piece = match open.first_byte_by.take() {
            Some(by) => in_time(timeout_at(by, piece).await, "first_byte_timeout")?,
            None => in_time(timeout(idle, piece).await, "idle_timeout")?,
        };
        match piece {
            None => return Ok(all.freeze()),
            Some(piece) => all.extend_from_slice(&piece.map_err(|error| lost(&error))?),
        }
        if all.len() > limit {
            return Err(ProviderError::network("answer_too_large", format!("a body of more than {limit} bytes")));
        }
    }
}

/// A request that is no model call: the whole body of its answer.
pub(super) async fn fetch(shared: &Shared, request: impl Fn() -> Request<Full<Bytes>>) -> Result<Bytes, ProviderError> {
    let sent = shared.transport.send(request);
    let (wire, response) = in_time(timeout(shared.timeouts.idle, sent).await, "first_byte_timeout")??;
    if response.status() != http::StatusCode::OK {
        return Err(refused(shared, wire, response).await);
    }
    let mut open =
        Open { wire, body: response.into_body(), parser: SseParser::default(), first_byte_by: None, is_stream: false };
    let body = read_body(&mut open, MAX_BODY, shared.timeouts.idle).await?;
    shared.transport.keep(open.wire);
    Ok(body)
}

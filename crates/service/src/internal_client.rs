//! Requests from one role to another: JSON, a service token, trace context, a deadline, and the next replica when one
//! cannot be reached or does not lead.

use crate::{Problem, ProblemCode, ServiceTokens, problem, trace};
use parking_lot::Mutex;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, Span};

/// The header in which a replica that does not lead names the one that does.
pub const LEADER_HEADER: &str = "x-lekhika-leader";

/// Calls the replicas of one role. All clones share what they learnt about which replica answers.
#[derive(Debug, Clone)]
pub struct InternalClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    base_urls: Vec<String>,
    audience: String,
    tokens: Arc<ServiceTokens>,
    /// The replica that answered last: tried first. One that was silent is not.
    preferred: Mutex<String>,
}

/// Why an internal request has no answer. Internal requests are idempotent, so each may simply be repeated.
#[derive(Debug, thiserror::Error)]
pub enum InternalError {
    /// No replica could be reached, or the connection broke: whether it was received is not known.
    #[error("call {url}")]
    Unreachable {
        /// The last one tried.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// No answer within the deadline.
    #[error("call {url}: no answer in time")]
    Timeout {
        /// The last one tried.
        url: String,
    },
    /// It answered with an error.
    #[error("call {url}: status {status}")]
    Status {
        /// The one that answered.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Its problem document; one made of the status if it sent none.
        #[source]
        problem: Box<Problem>,
    },
    /// It answered with something else than expected.
    #[error("read the answer of {url}")]
    Decode {
        /// The one that answered.
        url: String,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// There is no token or no body to send.
    #[error("make an internal request")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl InternalError {
    /// The problem document of the answer, if there was one.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Status { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// Whether another replica, or the same one later, may answer: not reached, no answer in time, no leader, 5xx.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 421,
            Self::Decode { .. } | Self::Request(_) => false,
        }
    }
}

/// What came of one replica.
enum Attempt {
    Answer(Response),
    /// Not reached, or silent for its part of the deadline.
    Next(InternalError),
    /// It does not lead; it may know who does.
    Leader(Option<String>, InternalError),
}

impl InternalClient {
    /// A client for `audience` (the role called), which answers at any of `base_urls` (without a trailing path).
    #[must_use]
    pub fn new(client: Client, base_urls: Vec<String>, audience: &str, tokens: Arc<ServiceTokens>) -> Self {
        let base_urls: Vec<String> = base_urls.iter().map(|u| u.trim_end_matches('/').to_owned()).collect();
        let preferred = Mutex::new(base_urls.first().cloned().unwrap_or_default());
        Self { shared: Arc::new(Shared { client, base_urls, audience: audience.to_owned(), tokens, preferred }) }
    }

    /// `POST`s JSON and reads JSON. The deadline covers everything, all replicas together: each gets an equal part of what is
    /// left of it.
    ///
    /// # Errors
    /// [`InternalError`].
    pub async fn post_json<T, R>(&self, path: &str, body: &T, deadline: Duration) -> Result<R, InternalError>
    where
        T: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        self.send_json(Method::POST, path, Some(body), deadline).await
    }

    /// `GET`s JSON. `path` may carry a query.
    ///
    /// # Errors
    /// [`InternalError`].
    pub async fn get_json<R: DeserializeOwned>(&self, path: &str, deadline: Duration) -> Result<R, InternalError> {
        self.send_json(Method::GET, path, None::<&()>, deadline).await
    }

    /// Any method with an optional JSON body; an empty answer reads as JSON `null`.
    ///
    /// # Errors
    /// [`InternalError`].
    pub async fn send_json<T, R>(
        &self,
        method: Method,
        path: &str,
        body: Option<&T>,
        deadline: Duration,
    ) -> Result<R, InternalError>
    where
        T: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let deadline = Instant::now() + deadline;
        let body = body.map(serde_json::to_vec).transpose().map_err(|e| InternalError::Request(Box::new(e)))?;
        let (base, response) = self.send(&method, path, body, deadline).await?;
        let url = response.url().to_string();
        let bytes = read(response, deadline).await.inspect_err(|_| self.avoid(&base))?;
        let bytes: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(bytes).map_err(|source| InternalError::Decode { url, source })
    }

    /// Opens a long `GET` and returns when its head has come: for session connections and streams. The deadline covers
    /// the head only; the caller watches the body.
    ///
    /// # Errors
    /// [`InternalError`].
    pub async fn open(&self, path: &str, deadline: Duration) -> Result<Response, InternalError> {
        self.send(&Method::GET, path, None, Instant::now() + deadline).await.map(|(_, response)| response)
    }

    /// Sends within the caller's span, or within one of its own: every internal request carries trace context.
    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<Vec<u8>>,
        deadline: Instant,
    ) -> Result<(String, Response), InternalError> {
        let mut span = Span::current();
        if span.is_none() {
            let path = path.split('?').next().unwrap_or_default();
            span = tracing::info_span!("call", otel.kind = "client", url.path = path);
        }
        self.try_replicas(method, path, body, deadline).instrument(span).await
    }

    /// Tries the preferred replica, then the others, following the leader's address where one is given.
    async fn try_replicas(
        &self,
        method: &Method,
        path: &str,
        body: Option<Vec<u8>>,
        deadline: Instant,
    ) -> Result<(String, Response), InternalError> {
        let mut waiting = self.candidates();
        // Replicas that point at each other must not keep us going round: two hops are enough to find a leader.
        let mut hops = 2;
        let mut last = None;
        while let Some(base) = waiting.pop() {
            let request = self.request(method, &format!("{base}{path}"), body.clone())?;
            match attempt(request, &format!("{base}{path}"), part_of(deadline, waiting.len())).await? {
                Attempt::Answer(response) => {
                    self.prefer(&base);
                    return checked(response, deadline).await.map(|response| (base, response));
                }
                Attempt::Next(error) => {
                    self.avoid(&base);
                    last = Some(error);
                }
                Attempt::Leader(leader, error) => {
                    last = Some(error);
                    if let Some(leader) = leader.filter(|l| *l != base && hops > 0) {
                        hops -= 1;
                        waiting.retain(|w| *w != leader);
                        waiting.push(leader);
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| InternalError::Request("no base URL is configured".into())))
    }

    /// In reverse order of trying.
    fn candidates(&self) -> Vec<String> {
        let preferred = self.shared.preferred.lock().clone();
        let mut all: Vec<String> = self.shared.base_urls.iter().rev().filter(|u| **u != preferred).cloned().collect();
        if !preferred.is_empty() {
            all.push(preferred);
        }
        all
    }

    fn prefer(&self, base: &str) {
        let mut preferred = self.shared.preferred.lock();
        if *preferred != base {
            base.clone_into(&mut preferred);
        }
    }

    /// A replica that could not be reached or was silent is not the first to be asked the next time.
    fn avoid(&self, base: &str) {
        let mut preferred = self.shared.preferred.lock();
        if *preferred == base {
            let urls = &self.shared.base_urls;
            let after = urls.iter().position(|url| url == base).map_or(0, |at| at + 1);
            if let Some(next) = urls.iter().cycle().skip(after).take(urls.len()).find(|url| *url != base) {
                next.clone_into(&mut preferred);
            }
        }
    }

    fn request(&self, method: &Method, url: &str, body: Option<Vec<u8>>) -> Result<RequestBuilder, InternalError> {
        let token = self.shared.tokens.token_for(&self.shared.audience);
        let token = token.map_err(|e| InternalError::Request(Box::new(e)))?;
        let mut request = self.shared.client.request(method.clone(), url).bearer_auth(token);
        if let Some(context) = trace::current() {
            request = request.header(trace::TRACEPARENT, context.traceparent);
            if let Some(state) = context.tracestate {
                request = request.header(trace::TRACESTATE, state);
            }
        }
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        Ok(request)
    }
}

/// When the present replica has to have answered, so that `others` still get as much time as it.
fn part_of(deadline: Instant, others: usize) -> Instant {
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    now + left / u32::try_from(others + 1).unwrap_or(u32::MAX)
}

async fn attempt(request: RequestBuilder, url: &str, deadline: Instant) -> Result<Attempt, InternalError> {
    let url = url.to_owned();
    let response = match timeout_at(deadline, request.send()).await {
        // Internal requests are idempotent: what a silent replica may still do is harmless.
        Err(_) => return Ok(Attempt::Next(InternalError::Timeout { url })),
        Ok(Err(source)) if source.is_connect() => return Ok(Attempt::Next(InternalError::Unreachable { url, source })),
        Ok(Err(source)) if source.is_timeout() => return Ok(Attempt::Next(InternalError::Timeout { url })),
        Ok(Err(source)) => return Err(InternalError::Unreachable { url, source }),
        Ok(Ok(response)) => response,
    };
    if response.status() != StatusCode::MISDIRECTED_REQUEST {
        return Ok(Attempt::Answer(response));
    }
    let leader = response.headers().get(LEADER_HEADER).and_then(|v| v.to_str().ok());
    let leader = leader.map(|l| l.trim_end_matches('/').to_owned()).filter(|l| !l.is_empty());
    let problem = Box::new(Problem::new(ProblemCode::NotLeader));
    Ok(Attempt::Leader(leader, InternalError::Status { url, status: 421, problem }))
}

/// Turns an error status into an error.
async fn checked(response: Response, deadline: Instant) -> Result<Response, InternalError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let url = response.url().to_string();
    let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|t| t == problem::CONTENT_TYPE);
    let body = read(response, deadline).await?;
    let sent = if is_problem { serde_json::from_slice(&body).ok() } else { None };
    let problem = sent.unwrap_or_else(|| problem_of(status));
    Err(InternalError::Status { url, status: status.as_u16(), problem: Box::new(problem) })
}

async fn read(response: Response, deadline: Instant) -> Result<Vec<u8>, InternalError> {
    let url = response.url().to_string();
    match timeout_at(deadline, response.bytes()).await {
        Err(_) => Err(InternalError::Timeout { url }),
        Ok(Err(source)) => Err(InternalError::Unreachable { url, source }),
        Ok(Ok(bytes)) => Ok(bytes.into()),
    }
}

/// For an answer without a problem document: a code with the same status, else `internal`.
fn problem_of(status: StatusCode) -> Problem {
    let code = ProblemCode::ALL.iter().copied().find(|c| c.status().as_u16() == status.as_u16());
    Problem { status: status.as_u16(), ..Problem::new(code.unwrap_or(ProblemCode::Internal)) }
}

//! The OpenAI chat completions dialect, and the many servers that speak something like it.
//!
//! Read in this order: `dialect` (how servers differ), `request` (what is sent), `chunk` (what comes), `answer` (what
//! it means), `call` (one call from connection to end), `failure` (error bodies), `headers` (limits and hints), `catalog` (which
//! models there are).

mod answer;
mod call;
mod catalog;
mod chunk;
pub mod dialect;
mod failure;
mod headers;
mod request;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use http::HeaderValue;
use secrecy::SecretString;
use url::Url;

pub use self::dialect::{AuthHeader, Dialect};
use crate::{ChatRequest, LanguageModel, ModelStream, ProviderError, transport::Timeouts, transport::Transport};

/// A connection cannot be made of its settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use {base_url} as a provider: {reason}")]
pub struct BadConnection {
    base_url: String,
    reason: String,
}

/// How often providers were tolerated; counters only grow. For metrics.
#[derive(Debug, Default)]
pub struct StreamCounters {
    malformed_events: AtomicU64,
    unterminated_events: AtomicU64,
    usage_total_mismatches: AtomicU64,
}

impl StreamCounters {
    /// Events that were not JSON and were skipped.
    #[must_use]
    pub fn malformed_events(&self) -> u64 {
        self.malformed_events.load(Ordering::Relaxed)
    }

    /// Streams whose last event lacked its blank line.
    #[must_use]
    pub fn unterminated_events(&self) -> u64 {
        self.unterminated_events.load(Ordering::Relaxed)
    }

    /// Usages whose total is not the sum of input and output.
    #[must_use]
    pub fn usage_total_mismatches(&self) -> u64 {
        self.usage_total_mismatches.load(Ordering::Relaxed)
    }
}

/// Everything calls of one connection share.
struct Shared {
    transport: Transport,
    timeouts: Timeouts,
    dialect: Dialect,
    chat_path: http::Uri,
    models_path: http::Uri,
    host: HeaderValue,
    auth: Option<(http::HeaderName, HeaderValue)>,
    counters: Arc<StreamCounters>,
}

/// A provider that speaks OpenAI chat completions. Cheap to clone: clones share connections.
#[derive(Clone)]
pub struct OpenAiChat {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for OpenAiChat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenAiChat").field("host", &self.shared.host).finish_non_exhaustive()
    }
}

impl OpenAiChat {
    /// The provider at `base_url`: `https://api.openai.com`, `http://localhost:11434/v1`, `https://host/openai/v1`.
    /// Without a path, `/v1` is meant. An empty key sends no credentials. Nothing is connected yet.
    ///
    /// # Errors
    /// When the address or the key cannot be used.
    pub fn new(
        base_url: &str,
        api_key: &SecretString,
        dialect: Dialect,
        timeouts: Timeouts,
    ) -> Result<Self, BadConnection> {
        let bad = |reason: String| BadConnection { base_url: without_userinfo(base_url), reason };
        let url = Url::parse(base_url).map_err(|error| bad(error.to_string()))?;
        let transport = Transport::new(&url, timeouts.connect).map_err(bad)?;
        let path = |name: &str| {
            let base = url.path().trim_end_matches('/');
            let base = if base.is_empty() { "/v1" } else { base };
            let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
            format!("{base}/{name}{query}").parse().map_err(|_invalid| bad("its path is no HTTP path".to_owned()))
        };
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let shared = Shared {
            chat_path: path("chat/completions")?,
            models_path: path("models")?,
            host: HeaderValue::from_str(&host).map_err(|_invalid| bad("its host is no HTTP host".to_owned()))?,
            auth: dialect.auth_header(api_key).map_err(|reason| bad(reason.to_owned()))?,
            transport,
            timeouts,
            dialect,
            counters: Arc::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What was tolerated so far.
    #[must_use]
    pub fn counters(&self) -> Arc<StreamCounters> {
        Arc::clone(&self.shared.counters)
    }

    /// The ids of the provider's models; also the way to test credentials.
    ///
    /// # Errors
    /// As a model call.
    pub async fn list_models(&self) -> Result<Vec<String>, ProviderError> {
        catalog::list(&self.shared).await
    }
}

impl LanguageModel for OpenAiChat {
    fn stream(&self, request: ChatRequest) -> ModelStream {
        let call = call::Call::new(Arc::clone(&self.shared), request);
        futures::stream::unfold(call, |mut call| async move { call.next().await.map(|event| (event, call)) }).boxed()
    }

    fn missing(&self, ids: Vec<String>) -> BoxFuture<'_, Result<Vec<String>, ProviderError>> {
        catalog::missing(&self.shared, ids).boxed()
    }
}

/// A base URL may carry a password; an error must not.
fn without_userinfo(base_url: &str) -> String {
    Url::parse(base_url).map_or_else(
        |_error| "the given address".to_owned(),
        |url| format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path()),
    )
}

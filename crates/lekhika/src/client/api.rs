//! The public HTTP API as a client uses it: nothing here knows the inside of the platform.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::Stream;
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;

/// A client of one platform with one key.
#[derive(Clone)]
pub struct ApiClient {
    base: String,
    key: SecretString,
    http: reqwest::Client,
}

/// The body of a 202.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// The new execution.
    pub execution_id: String,
    /// `queued`, or a terminal state with `Prefer: wait`.
    pub status: String,
}

/// The parts of an execution that the command line shows.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    /// Its id.
    pub execution_id: String,
    /// Its public state.
    pub status: String,
    /// Tokens.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<Problem>,
    /// Its files.
    #[serde(default)]
    pub deliverables: Vec<Deliverable>,
}

/// Tokens of an execution.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Usage {
    /// Read and written.
    pub total: i64,
}

/// A problem document (RFC 9457), as far as a person reads it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The stable code.
    #[serde(default)]
    pub code: String,
    /// One sentence.
    #[serde(default)]
    pub detail: String,
    /// Each wrong field.
    #[serde(default)]
    pub errors: Vec<FieldProblem>,
}

/// One wrong field.
#[derive(Debug, Clone, Deserialize)]
pub struct FieldProblem {
    /// Where (RFC 6901).
    #[serde(default)]
    pub pointer: String,
    /// What is wrong.
    #[serde(default)]
    pub detail: String,
}

/// One rendered file.
#[derive(Debug, Clone, Deserialize)]
pub struct Deliverable {
    /// Its format.
    pub format: String,
    /// Its file name.
    pub name: String,
    /// `ready` or `failed`.
    pub status: String,
    /// Where to fetch it.
    #[serde(default)]
    pub url: Option<String>,
}

impl ApiClient {
    /// A client of the platform at `base`, such as `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(base: &str, key: SecretString) -> anyhow::Result<Self> {
        let http = service::http_client::build(&service::http_client::ClientConfig::default())?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), key, http })
    }

    /// Submits an input to an engine.
    ///
    /// # Errors
    /// When the platform refuses it or cannot be reached; a refusal names each wrong field.
    pub async fn submit(&self, engine: &str, input: &Value) -> anyhow::Result<Accepted> {
        let request = self
            .request(Method::POST, &["v1", "engines", engine, "execute"])?
            .json(&serde_json::json!({ "input": input }));
        read(send(request).await?).await
    }

    /// Reads an execution.
    ///
    /// # Errors
    /// When it is not there or the platform cannot be reached.
    pub async fn execution(&self, id: &str) -> anyhow::Result<Execution> {
        read(send(self.request(Method::GET, &["v1", "executions", id])?).await?).await
    }

    /// Stops an execution and returns its state.
    ///
    /// # Errors
    /// When it is not there or the platform cannot be reached.
    pub async fn stop(&self, id: &str) -> anyhow::Result<String> {
        #[derive(Deserialize)]
        struct Stopping {
            status: String,
        }
        let request = self.request(Method::POST, &["v1", "executions", id, "stop"])?;
        Ok(read::<Stopping>(send(request).await?).await?.status)
    }

    /// Opens the event stream after `after`; `None` when there is nothing left to come.
    ///
    /// # Errors
    /// When the stream cannot be opened.
    pub async fn events(
        &self,
        id: &str,
        after: i64,
    ) -> anyhow::Result<Option<impl Stream<Item = reqwest::Result<bytes::Bytes>> + use<>>> {
        let request = self
            .request(Method::GET, &["v1", "executions", id, "events"])?
            .header(header::ACCEPT, "text/event-stream")
            .query(&[("after", after)])
            .timeout(Duration::from_secs(24 * 3600));
        let response = accepted(send(request).await?).await?;
        Ok((response.status() != StatusCode::NO_CONTENT).then(|| response.bytes_stream()))
    }

    /// Fetches a file by the link that a deliverable carries.
    ///
    /// # Errors
    /// When the link is not served.
    pub async fn download(&self, url: &str) -> anyhow::Result<bytes::Bytes> {
        let url = if url.starts_with('/') { format!("{}{url}", self.base) } else { url.to_owned() };
        let request = self.http.get(url).bearer_auth(self.key.expose_secret());
        Ok(accepted(send(request).await?).await?.bytes().await?)
    }

    fn request(&self, method: Method, path: &[&str]) -> anyhow::Result<RequestBuilder> {
        let mut url = url::Url::parse(&self.base).with_context(|| format!("`{}` is not a URL", self.base))?;
        url.path_segments_mut()
            .map_err(|()| anyhow::anyhow!("`{}` cannot be a base URL", self.base))?
            .pop_if_empty()
            .extend(path);
        Ok(self.http.request(method, url).bearer_auth(self.key.expose_secret()))
    }
}

async fn send(request: RequestBuilder) -> anyhow::Result<Response> {
    request.send().await.context("the platform cannot be reached")
}

async fn read<T: serde::de::DeserializeOwned>(response: Response) -> anyhow::Result<T> {
    accepted(response).await?.json().await.context("the platform's answer is not of the expected form")
}

/// The response if it is a success; otherwise its problem document as an error a person can read.
async fn accepted(response: Response) -> anyhow::Result<Response> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let body = response.bytes().await.unwrap_or_default();
    let Ok(problem) = serde_json::from_slice::<Problem>(&body) else { bail!("the platform answered {status}") };
    let fields: String =
        problem.errors.iter().map(|field| format!("\n  {}: {}", field.pointer, field.detail)).collect();
    bail!("{} ({}): {}{fields}", status.as_u16(), problem.code, problem.detail)
}

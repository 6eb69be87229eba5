//! The public HTTP API as a client uses it: nothing here knows the inside of the platform.

use std::time::Duration;

use anyhow::Context as _;
use futures::Stream;
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;

use crate::refusal::Refusal;

/// How long a file may take: a slow line, a large book.
const DOWNLOAD_WITHIN: Duration = Duration::from_secs(3_600);

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
    pub error: Option<Failure>,
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

/// Why an execution failed.
#[derive(Debug, Clone, Deserialize)]
pub struct Failure {
    /// The stable code.
    #[serde(default)]
    pub code: String,
    /// One sentence.
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
        let http = service::http_client::build(&service::http_client::ClientConfig::reaching(base))?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), key, http })
    }

    /// Submits an input to an engine. The same `key` twice is one execution.
    ///
    /// # Errors
    /// When the platform refuses it or cannot be reached; a refusal names each wrong field.
    pub async fn submit(&self, engine: &str, input: &Value, key: &str) -> anyhow::Result<Accepted> {
        let request = self
            .request(Method::POST, &["v1", "engines", engine, "execute"])?
            .header("idempotency-key", key)
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

    /// Fetches a file by the link that a deliverable carries. The link is signed; the key goes to our own platform only,
    /// whatever host the link names.
    ///
    /// # Errors
    /// When the link is not served.
    pub async fn download(&self, link: &str) -> anyhow::Result<bytes::Bytes> {
        let base = self.base()?;
        let url = base.join(link).with_context(|| format!("`{link}` is not a link"))?;
        let ours = url.origin() == base.origin();
        let request = self.http.get(url).timeout(DOWNLOAD_WITHIN);
        let request = if ours { request.bearer_auth(self.key.expose_secret()) } else { request };
        Ok(accepted(send(request).await?).await?.bytes().await?)
    }

    fn base(&self) -> anyhow::Result<url::Url> {
        url::Url::parse(&self.base).with_context(|| format!("`{}` is not a URL", self.base))
    }

    fn request(&self, method: Method, path: &[&str]) -> anyhow::Result<RequestBuilder> {
        let mut url = self.base()?;
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
    Err(Refusal::of(status, &body).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::stub::Stub;

    #[tokio::test]
    async fn the_key_goes_to_our_own_platform_only() {
        let (ours, theirs) = (Stub::start().await, Stub::start().await);
        let client = ApiClient::new(&ours.url(), "secret".to_owned().into()).unwrap();

        for link in ["/files/1".to_owned(), format!("{}/files/2", ours.url()), format!("{}/files/3", theirs.url())] {
            let (stub, other) = if link.contains("/3") { (&theirs, false) } else { (&ours, true) };
            let (request, bytes) = tokio::join!(stub.answer("200 OK", "text"), client.download(&link));
            assert_eq!(bytes.unwrap(), "text");
            assert_eq!(request.contains("Bearer secret"), other, "{link}: {request}");
        }
    }
}

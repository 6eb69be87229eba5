//! A kept-alive HTTP/1.1 connection: as little client as possible, because it takes its time from the cores it measures.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use url::Url;

/// Nothing that is measured takes this long; a hang becomes an error.
const DEADLINE: Duration = Duration::from_secs(30);

/// One connection to one server, opened when it is first used and again when it was closed.
#[derive(Debug)]
pub(crate) struct Connection {
    address: String,
    authorization: Option<HeaderValue>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its body.
    pub(crate) body: Bytes,
}

impl Connection {
    /// A connection to the server of `base_url`, authorised with a bearer `token` if there is one.
    ///
    /// # Errors
    /// When the URL has no host, or the token cannot stand in a header.
    pub(crate) fn new(base_url: &str, token: Option<&str>) -> anyhow::Result<Self> {
        let url = Url::parse(base_url).with_context(|| format!("reading the URL `{base_url}`"))?;
        let host = url.host_str().with_context(|| format!("`{base_url}` names no host"))?;
        let port = url.port_or_known_default().with_context(|| format!("`{base_url}` names no port"))?;
        let authorization = token.map(|token| HeaderValue::from_str(&format!("Bearer {token}"))).transpose()?;
        Ok(Self { address: format!("{host}:{port}"), authorization, sender: None })
    }

    /// Sends one request and reads the whole response.
    ///
    /// # Errors
    /// When the server cannot be reached, breaks off, or takes longer than half a minute.
    pub(crate) async fn call(&mut self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Answer> {
        let what = format!("{method} {path} at {}", self.address);
        let answer = async {
            let response = self.send(method, path, "application/json", body).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, anyhow::Error>(Answer { status, body })
        };
        timeout(DEADLINE, answer).await.with_context(|| format!("no answer to {what}"))?.context(what)
    }

    /// Opens a stream of server-sent events; the connection is not usable for anything else afterwards.
    ///
    /// # Errors
    /// As [`Connection::call`], and when the status is not 200.
    pub(crate) async fn events(mut self, path: &str) -> anyhow::Result<Incoming> {
        let response = timeout(DEADLINE, self.send(Method::GET, path, "text/event-stream", Bytes::new())).await??;
        anyhow::ensure!(response.status() == StatusCode::OK, "GET {path} answers {}", response.status());
        Ok(response.into_body())
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        accept: &'static str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.as_str())
            .header(ACCEPT, accept)
            .header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let request = request.body(Full::new(body))?;
        Ok(self.open().await?.send_request(request).await?)
    }

    async fn open(&mut self) -> anyhow::Result<&mut SendRequest<Full<Bytes>>> {
        let usable = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            // Ends with the connection; what goes wrong shows in the requests on it.
            tokio::spawn(async move { drop(connection.await) });
            self.sender = Some(sender);
        }
        self.sender.as_mut().context("the connection was closed while it was opened")
    }
}

impl Answer {
    /// The JSON body of a successful response.
    ///
    /// # Errors
    /// For any other status (the message carries the body) and for a body of another form.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, what: &str) -> anyhow::Result<T> {
        anyhow::ensure!(
            self.status.is_success(),
            "{what} answers {}: {}",
            self.status,
            String::from_utf8_lossy(&self.body)
        );
        serde_json::from_slice(&self.body).with_context(|| format!("reading the answer of {what}"))
    }
}

//! Connections to one provider. A call owns its connection and drives it itself, without a task in between: dropping
//! the call drops the socket. Only a connection whose answer was read to its end is kept for the next call.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Body as _, Incoming},
    client::conn::http1::{self, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use url::Url;

use crate::{ErrorClass, ProviderError};

/// Kept connections per provider: as many as calls may end at the same time on one executor.
const MAX_KEPT: usize = 2048;
/// Providers close silent connections after a minute or more; we close ours first.
const KEEP_FOR: Duration = Duration::from_secs(45);

/// A connection that breaks this soon after a request was sent on it was closed before the request arrived.
const CROSSED_WITHIN: Duration = Duration::from_secs(1);

/// How long each phase of a call may last. There is no limit for a whole call: the node has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Name look-up, TCP and TLS.
    pub connect: Duration,
    /// From the request to the first byte of the answer's body; reasoning models are silent for minutes.
    pub first_byte: Duration,
    /// Between two pieces of the body; comments count as pieces.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), first_byte: Duration::from_secs(300), idle: Duration::from_secs(120) }
    }
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

type Io = TokioIo<Box<dyn Socket>>;

/// What broke a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the connection was closed")]
    Closed,
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

impl WireError {
    /// With its causes, for operators.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

/// One connection, polled by whoever waits on it.
pub(crate) struct Wire {
    sender: SendRequest<Full<Bytes>>,
    connection: Connection<Io, Full<Bytes>>,
    ended: bool,
}

impl Wire {
    async fn over(socket: Box<dyn Socket>) -> Result<Self, WireError> {
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        Ok(Self { sender, connection, ended: false })
    }

    fn drive(&mut self, cx: &mut Context<'_>) -> Result<(), WireError> {
        if self.ended {
            return Err(WireError::Closed);
        }
        match Pin::new(&mut self.connection).poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(result) => {
                self.ended = true;
                Err(result.err().map_or(WireError::Closed, WireError::Http))
            }
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, WireError> {
        let mut answer = pin!(self.sender.send_request(request));
        poll_fn(|cx| {
            let ended = self.drive(cx).err();
            match (answer.as_mut().poll(cx), ended) {
                (Poll::Ready(answer), _) => Poll::Ready(answer.map_err(WireError::Http)),
                (Poll::Pending, Some(error)) => Poll::Ready(Err(error)),
                (Poll::Pending, None) => Poll::Pending,
            }
        })
        .await
    }

    /// The next piece of the body; `None` at its proper end.
    pub(crate) async fn piece(&mut self, body: &mut Incoming) -> Option<Result<Bytes, WireError>> {
        poll_fn(|cx| {
            if let Poll::Ready(piece) = poll_body(body, cx) {
                return Poll::Ready(piece);
            }
            let ended = self.drive(cx).err();
            match (poll_body(body, cx), ended) {
                (Poll::Ready(piece), _) => Poll::Ready(piece),
                (Poll::Pending, Some(error)) => Poll::Ready(Some(Err(error))),
                (Poll::Pending, None) => Poll::Pending,
            }
        })
        .await
    }

    /// Whether another request can be sent now.
    fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop())).is_ok() && self.sender.is_ready()
    }
}

fn poll_body(body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, WireError>>> {
    loop {
        match std::task::ready!(Pin::new(&mut *body).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Poll::Ready(Some(Ok(data)));
                }
            }
        }
    }
}

/// The way to one provider: its address and the connections kept for it.
pub(crate) struct Transport {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connect_timeout: Duration,
    kept: Mutex<VecDeque<(Wire, Instant)>>,
}

impl Transport {
    /// To the host of `url`. `Err` says why that is impossible.
    pub(crate) fn new(url: &Url, connect_timeout: Duration) -> Result<Self, String> {
        let host = url.host_str().ok_or("it has no host")?.trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().ok_or("it has no port")?;
        let tls = match url.scheme() {
            "http" => None,
            "https" => Some(tls_for(&host)?),
            scheme => return Err(format!("its scheme is {scheme}, not http or https")),
        };
        Ok(Self { host, port, tls, connect_timeout, kept: Mutex::new(VecDeque::new()) })
    }

    /// Sends a request on a kept or a new connection and waits for the head of its answer.
    pub(crate) async fn send(
        &self,
        request: impl Fn() -> Request<Full<Bytes>>,
    ) -> Result<(Wire, Response<Incoming>), ProviderError> {
        if let Some(mut wire) = self.take_kept() {
            let sent_at = Instant::now();
            match wire.send(request()).await {
                Ok(response) => return Ok((wire, response)),
                // Later, the provider had it in its hands: then it is a call that failed, with a row in the ledger.
                Err(error) if sent_at.elapsed() > CROSSED_WITHIN => return Err(lost(&error)),
                // The server closed it just as we took it; nothing of an answer was seen, so a new one is tried.
                Err(WireError::Closed) => {}
                Err(WireError::Http(error)) if !error.is_parse() => {}
                Err(error) => return Err(lost(&error)),
            }
        }
        let mut wire = self.connect().await?;
        let response = wire.send(request()).await.map_err(|error| lost(&error))?;
        Ok((wire, response))
    }

    /// Keeps a connection whose answer was read to its end.
    pub(crate) fn keep(&self, mut wire: Wire) {
        if !wire.is_usable() {
            return;
        }
        let now = Instant::now();
        let mut outdated = Vec::new();
        let mut kept = self.kept.lock();
        while kept.front().is_some_and(|(_, since)| kept.len() >= MAX_KEPT || now - *since > KEEP_FOR) {
            outdated.extend(kept.pop_front());
        }
        kept.push_back((wire, now));
        drop(kept);
        // Closing sockets is not done under the lock.
        drop(outdated);
    }

    /// The connection used last: the others may rest until they are too old.
    fn take_kept(&self) -> Option<Wire> {
        loop {
            let (mut wire, since) = self.kept.lock().pop_back()?;
            if since.elapsed() <= KEEP_FOR && wire.is_usable() {
                return Some(wire);
            }
        }
    }

    async fn connect(&self) -> Result<Wire, ProviderError> {
        let connecting = async {
            let socket =
                self.socket().await.map_err(|error| ProviderError::network("connect_failed", error.to_string()))?;
            Wire::over(socket).await.map_err(|error| lost(&error))
        };
        tokio::time::timeout(self.connect_timeout, connecting).await.unwrap_or_else(|_elapsed| {
            Err(ProviderError::network("connect_timeout", format!("no connection after {:?}", self.connect_timeout)))
        })
    }

    async fn socket(&self) -> std::io::Result<Box<dyn Socket>> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(tcp)),
            Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), tcp).await?)),
        }
    }
}

fn tls_for(host: &str) -> Result<(TlsConnector, ServerName<'static>), String> {
    let name =
        ServerName::try_from(host.to_owned()).map_err(|error| format!("its host is no name for TLS: {error}"))?;
    let unusable = |error: rustls::Error| format!("the machine's certificates cannot be used: {error}");
    let mut config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(BuilderVerifierExt::with_platform_verifier)
            .map_err(unusable)?
            .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// The connection broke before or in an answer.
pub(crate) fn lost(error: &WireError) -> ProviderError {
    ProviderError::new(ErrorClass::Network, "connection_lost", error.chain())
}

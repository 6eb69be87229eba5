//! One gateway process: its configuration and its listeners.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use actix_web::{App, HttpServer, middleware::from_fn, web};
use broker::Broker;
use domain::GatewayId;
use object_store::ObjectStore;
use secrecy::SecretString;
use service::{
    Clock, ConfigError, Environment, InternalClient, InternalError, ObjectStoreConfig, Readiness, ServiceTokens,
    Shutdown,
};

use crate::{
    auth::Keys, edge, engines::Engines, hub::Hub, limits::Limits, metrics::Metrics, routes, submit::Submitter,
};

/// How long an internal read may take.
pub(crate) const READ_WITHIN: Duration = Duration::from_secs(5);

/// What a gateway process is told.
#[derive(Debug)]
pub struct GatewayConfig {
    /// The public listener (port 0: a free one).
    pub public_address: SocketAddr,
    /// The admin listener; none when absent.
    pub admin_address: Option<SocketAddr>,
    /// The internal listener for health and metrics; none when absent.
    pub internal_address: Option<SocketAddr>,
    /// How clients reach the public listener; derived from its address when absent.
    pub public_url: Option<String>,
    /// The status replicas.
    pub status_urls: Vec<String>,
    /// Signs internal requests.
    pub service_secret: SecretString,
    /// The pepper of key hashes.
    pub key_pepper: SecretString,
    /// Signs links to files.
    pub link_secret: SecretString,
    /// Signs and checks the tokens of operators; without it the admin listener is not served.
    pub admin_secret: Option<SecretString>,
    /// Where files are.
    pub object_store: ObjectStoreConfig,
    /// Which models may be deployed: `provider/*` or `provider/model`.
    pub models: Vec<String>,
}

impl GatewayConfig {
    /// Reads `LEKHIKA_*` (`docs/operations.md`).
    ///
    /// # Errors
    /// Names every missing or wrong variable.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let public_address = environment.parsed_or("LEKHIKA_PUBLIC_ADDR", local(8080));
        let admin_address = environment.parsed_or("LEKHIKA_ADMIN_ADDR", local(8081));
        let internal_address = environment.parsed_or("LEKHIKA_INTERNAL_ADDR", local(9101));
        let public_url = environment.url("LEKHIKA_PUBLIC_URL");
        let status_urls = environment.urls("LEKHIKA_STATUS_URLS");
        let service_secret = environment.long_secret(service::tokens::SECRET_VARIABLE);
        let key_pepper = environment.long_secret("LEKHIKA_KEY_PEPPER");
        let link_secret = environment.long_secret("LEKHIKA_LINK_SECRET");
        let admin_secret = environment.optional_long_secret("LEKHIKA_ADMIN_SECRET");
        let object_store = ObjectStoreConfig::from_environment(environment);
        let models = models(environment);
        environment.finish()?;
        Ok(Self {
            public_address: public_address?,
            admin_address: Some(admin_address?),
            internal_address: Some(internal_address?),
            public_url: public_url?,
            status_urls: status_urls?,
            service_secret: service_secret?,
            key_pepper: key_pepper?,
            link_secret: link_secret?,
            admin_secret: admin_secret?,
            object_store: object_store?,
            models: models?,
        })
    }
}

fn models(environment: &Environment) -> Result<Vec<String>, ConfigError> {
    let models = environment.list("LEKHIKA_MODELS");
    if models.is_empty() {
        return Ok(vec!["sim/*".to_owned(), "openai/*".to_owned()]);
    }
    match models.iter().find(|model| !model.contains('/')) {
        Some(wrong) => {
            Err(environment.problem(format!("LEKHIKA_MODELS: `{wrong}` is neither provider/* nor provider/model")))
        }
        None => Ok(models),
    }
}

/// Why a gateway process does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The service secret is too short.
    #[error("sign internal requests")]
    Tokens(#[from] service::tokens::TokenError),
    /// No HTTP client can be made.
    #[error("prepare internal requests")]
    Client(#[from] service::http_client::HttpClientError),
    /// The object store's address is wrong.
    #[error("open the object store")]
    Store(#[from] object_store::Error),
    /// A listener's address is taken.
    #[error("listen on {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A running gateway process.
#[derive(Debug, Clone)]
pub struct Handle {
    /// The address of the public listener.
    pub public_address: SocketAddr,
    /// How clients reach it.
    pub public_url: String,
    /// The address of the admin listener.
    pub admin_address: Option<SocketAddr>,
    /// The address of the internal listener.
    pub internal_address: Option<SocketAddr>,
}

/// What all parts of the process share.
pub(crate) struct Gateway {
    pub(crate) public_url: String,
    pub(crate) status: InternalClient,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) keys: Keys,
    pub(crate) engines: Engines,
    pub(crate) limits: Limits,
    pub(crate) submitter: Submitter,
    pub(crate) hub: Arc<Hub>,
    pub(crate) metrics: Metrics,
    pub(crate) link_secret: SecretString,
    pub(crate) files: Arc<dyn ObjectStore>,
    pub(crate) shutdown: Shutdown,
}

impl Gateway {
    /// Asks status something within the deadline of reads.
    pub(crate) async fn ask<T, R>(&self, path: &str, question: &T) -> Result<R, InternalError>
    where
        T: serde::Serialize + Sync,
        R: serde::de::DeserializeOwned,
    {
        self.status.post_json(path, question, READ_WITHIN).await
    }
}

/// Starts the process's parts: they end with `shutdown`.
///
/// # Errors
/// [`GatewayError`].
pub fn run(
    config: GatewayConfig,
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
) -> Result<Handle, GatewayError> {
    let tokens = Arc::new(ServiceTokens::new(&config.service_secret, "gateway", Arc::clone(&clock))?);
    let http = service::http_client::build(&service::http_client::ClientConfig::internal())?;
    let status = InternalClient::new(http, config.status_urls.clone(), "status", tokens);
    let listener = bind(config.public_address)?;
    let public_address = local(&listener, config.public_address)?;
    let public_url = config.public_url.clone().unwrap_or_else(|| format!("http://{public_address}"));
    let public_url = public_url.trim_end_matches('/').to_owned();
    let registry = service::metrics::registry();
    let metrics = Metrics::new(&registry);
    // What requests need goes on until the last one is answered.
    let served = Shutdown { abort: shutdown.abort.child_token(), ..shutdown.clone() };
    let hub = Hub::start(GatewayId::generate(), status.clone(), &broker, metrics.clone(), &served);
    let gateway = web::Data::new(Gateway {
        public_url: public_url.clone(),
        keys: Keys::new(config.key_pepper.clone(), status.clone(), shutdown.clone()),
        engines: Engines::new(status.clone(), shutdown.clone()),
        limits: Limits::default(),
        submitter: Submitter::start(&broker, metrics.clone(), &served),
        hub,
        metrics,
        link_secret: config.link_secret.clone(),
        files: config.object_store.open()?,
        shutdown: shutdown.clone(),
        clock: Arc::clone(&clock),
        status: status.clone(),
    });
    serve_public(gateway, listener, public_address, &served)?;
    let admin_address = serve_admin(&config, &status, &clock, &shutdown)?;
    let internal_address = match config.internal_address {
        Some(address) => {
            let ready = Readiness::new().check("broker", move || {
                let broker = Arc::clone(&broker);
                async move { broker.ready(Duration::from_secs(1)).await.map_err(|error| error.to_string()) }
            });
            let started = service::internal_http::HealthListener::start(address, registry, ready, &shutdown);
            Some(started.map_err(|source| GatewayError::Listen { address, source })?)
        }
        None => None,
    };
    Ok(Handle { public_address, public_url, admin_address, internal_address })
}

fn bind(address: SocketAddr) -> Result<std::net::TcpListener, GatewayError> {
    std::net::TcpListener::bind(address).map_err(|source| GatewayError::Listen { address, source })
}

fn local(listener: &std::net::TcpListener, address: SocketAddr) -> Result<SocketAddr, GatewayError> {
    listener.local_addr().map_err(|source| GatewayError::Listen { address, source })
}

/// When the last request is answered, `served` is told to abort.
fn serve_public(
    gateway: web::Data<Gateway>,
    listener: std::net::TcpListener,
    address: SocketAddr,
    served: &Shutdown,
) -> Result<(), GatewayError> {
    let server = HttpServer::new(move || {
        App::new().app_data(gateway.clone()).wrap(from_fn(edge::surround)).configure(routes::configure)
    })
    .workers(2)
    .keep_alive(Duration::from_secs(75))
    .client_request_timeout(Duration::from_secs(10))
    .max_connections(100_000)
    .disable_signals()
    .shutdown_timeout(5)
    .listen(listener)
    .map_err(|source| GatewayError::Listen { address, source })?
    .run();
    let handle = server.handle();
    let (drain, over) = (served.drain.clone(), served.abort.clone());
    served.spawn(async move {
        let server = tokio::spawn(server);
        drain.cancelled().await;
        handle.stop(true).await;
        // It has stopped: how it ended is of no interest any more.
        drop(server.await);
        over.cancel();
    });
    Ok(())
}

fn serve_admin(
    config: &GatewayConfig,
    status: &InternalClient,
    clock: &Arc<dyn Clock>,
    shutdown: &Shutdown,
) -> Result<Option<SocketAddr>, GatewayError> {
    let (Some(address), Some(secret)) = (config.admin_address, &config.admin_secret) else { return Ok(None) };
    let settings = admin::AdminConfig {
        address,
        secret: secret.clone(),
        key_pepper: config.key_pepper.clone(),
        models: config.models.clone(),
    };
    let bound = admin::serve(settings, status.clone(), Arc::clone(clock), shutdown);
    bound.map(Some).map_err(|source| GatewayError::Listen { address, source })
}

//! One executor process: its parts and what they share.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use broker::Broker;
use domain::ExecutorId;
use object_store::ObjectStore;
use providers::openai::BadConnection;
use service::{
    Clock, InternalClient, Readiness, ServiceTokens, Shutdown,
    http_client::{self, ClientConfig, HttpClientError},
    internal_http::HealthListener,
    metrics::Registry,
    tokens::TokenError,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    claims, config::ExecutorConfig, consumer, control, drain, lease::Lease, metrics::Metrics, models::Models,
    outbox::Outbox, renewals, reporter, runs::Runs, session, versions::Versions,
};

/// Offers that wait for the next claim request.
const OFFERS: usize = 64;

/// Why an executor does not start.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The service secret is too short.
    #[error("sign internal requests")]
    Tokens(#[from] TokenError),
    /// No HTTP client can be made.
    #[error("prepare internal requests")]
    Client(#[from] HttpClientError),
    /// A provider's address or key is wrong.
    #[error("prepare the model providers")]
    Provider(#[from] BadConnection),
    /// The object store's address is wrong.
    #[error("open the object store")]
    Store(#[from] object_store::Error),
    /// The listener's address is taken.
    #[error("listen on {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A running executor.
#[derive(Debug, Clone)]
pub struct Handle {
    /// This boot of it.
    pub id: ExecutorId,
    /// The address its internal listener really has, if it has one.
    pub internal_address: Option<SocketAddr>,
    /// Its metrics.
    pub registry: Registry,
}

/// What all parts of the process share.
pub(crate) struct Executor {
    pub(crate) id: ExecutorId,
    pub(crate) config: ExecutorConfig,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shutdown: Shutdown,
    pub(crate) metrics: Metrics,
    pub(crate) models: Models,
    pub(crate) files: Arc<dyn ObjectStore>,
    pub(crate) versions: Versions,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) runs: Runs,
    pub(crate) lease: Lease,
    pub(crate) slots: Arc<Semaphore>,
    /// Claims and reads.
    pub(crate) claims: InternalClient,
    /// The report stream: a connection of its own.
    pub(crate) reports: InternalClient,
    /// Renewals and the session: connections of their own.
    pub(crate) renewals: InternalClient,
    /// Takes nothing new.
    pub(crate) drain: CancellationToken,
    /// Runs are given back at their next unit boundary.
    pub(crate) boundary: CancellationToken,
    /// Nothing is held any more: the lease is given up.
    pub(crate) lease_end: CancellationToken,
    /// Nothing is left to report.
    pub(crate) reports_end: CancellationToken,
}

/// Starts the executor's parts: they end with `shutdown`.
///
/// # Errors
/// [`ExecutorError`].
pub fn run(
    config: ExecutorConfig,
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
) -> Result<Handle, ExecutorError> {
    let registry = service::metrics::registry();
    let executor = Arc::new(prepare(config, broker, clock, shutdown, &registry)?);
    let internal_address = listen(&executor, &registry)?;
    let shutdown = executor.shutdown.clone();
    let (sender, offers) = mpsc::channel(OFFERS);
    shutdown.spawn(renewals::run(Arc::clone(&executor)));
    shutdown.spawn(session::run(Arc::clone(&executor)));
    shutdown.spawn(control::run(Arc::clone(&executor)));
    shutdown.spawn(reporter::run(Arc::clone(&executor)));
    shutdown.spawn(reporter::tick(Arc::clone(&executor)));
    shutdown.spawn(claims::run(Arc::clone(&executor), offers));
    shutdown.spawn(consumer::run(Arc::clone(&executor), sender));
    shutdown.spawn(drain::run(Arc::clone(&executor)));
    tracing::info!(executor.id = %executor.id, slots = executor.config.slots, "the executor takes work");
    Ok(Handle { id: executor.id, internal_address, registry })
}

fn prepare(
    config: ExecutorConfig,
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
    registry: &Registry,
) -> Result<Executor, ExecutorError> {
    let tokens = Arc::new(ServiceTokens::new(&config.service_secret, "executor", Arc::clone(&clock))?);
    let client = || -> Result<InternalClient, ExecutorError> {
        let client = http_client::build(&ClientConfig::internal())?;
        Ok(InternalClient::new(client, config.status_urls.clone(), "status", Arc::clone(&tokens)))
    };
    let metrics = Metrics::new(registry);
    metrics.slots.set(i64::from(config.slots));
    let slots = usize::try_from(config.slots).unwrap_or(1).min(Semaphore::MAX_PERMITS);
    Ok(Executor {
        id: ExecutorId::generate(),
        metrics,
        models: Models::new(&config.providers, registry)?,
        files: config.object_store.open()?,
        versions: Versions::default(),
        outbox: Outbox::new(Arc::clone(&clock)),
        runs: Runs::default(),
        lease: Lease::new(),
        slots: Arc::new(Semaphore::new(slots)),
        claims: client()?,
        reports: client()?,
        renewals: client()?,
        drain: CancellationToken::new(),
        boundary: CancellationToken::new(),
        lease_end: CancellationToken::new(),
        reports_end: CancellationToken::new(),
        config,
        broker,
        clock,
        shutdown,
    })
}

fn listen(executor: &Arc<Executor>, registry: &Registry) -> Result<Option<SocketAddr>, ExecutorError> {
    let Some(address) = executor.config.internal_address else { return Ok(None) };
    let (leader, broker) = (Arc::clone(executor), Arc::clone(executor));
    let readiness = Readiness::new()
        .check("lease", move || {
            let valid = leader.lease.is_valid();
            async move { if valid { Ok(()) } else { Err("no lease from the leader".to_owned()) } }
        })
        .check("broker", move || {
            let executor = Arc::clone(&broker);
            async move { executor.broker.ready(Duration::from_secs(1)).await.map_err(|error| error.to_string()) }
        });
    HealthListener::start(address, registry.clone(), readiness, &executor.shutdown)
        .map(Some)
        .map_err(|source| ExecutorError::Listen { address, source })
}

//! One status process: its configuration, its listener, and its wish to lead.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use actix_web::{App, HttpServer, middleware::from_fn, web};
use arc_swap::ArcSwapOption;
use broker::Broker;
use chrono::{DateTime, Utc};
use domain::StatusId;
use secrecy::{ExposeSecret as _, SecretString};
use service::{Clock, ConfigError, Environment, Readiness, ServiceTokens, Shutdown};
use storage::{Pool, PooledConnection, StorageError};

use crate::{
    failpoint::Failpoint,
    leader::{self, Term},
    live::Live,
    metrics::Metrics,
    routes,
};

/// The largest internal request: a report of an executor with many executions.
const BODY_LIMIT: usize = 64 << 20;

/// What a status process is told.
#[derive(Debug)]
pub struct StatusConfig {
    /// The internal listener (port 0: a free one).
    pub address: SocketAddr,
    /// Where others reach it; derived from the address when absent.
    pub self_url: Option<String>,
    /// Postgres.
    pub database_url: SecretString,
    /// Connections at most.
    pub connections: usize,
    /// Signs and checks internal requests.
    pub service_secret: SecretString,
    /// For tests: where to die.
    pub failpoint: Option<String>,
}

impl StatusConfig {
    /// Reads `LEKHIKA_*` (`docs/operations.md`).
    ///
    /// # Errors
    /// Names every missing or wrong variable.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let address = environment.parsed_or("LEKHIKA_INTERNAL_ADDR", SocketAddr::from(([127, 0, 0, 1], 9100)));
        let self_url = environment.url("LEKHIKA_SELF_URL");
        let database_url = environment.secret_url("LEKHIKA_DATABASE_URL", &["postgres", "postgresql"]);
        let connections = environment.within("LEKHIKA_DATABASE_CONNECTIONS", 16_usize, 1..=1_000);
        let service_secret = environment.long_secret(service::tokens::SECRET_VARIABLE);
        let failpoint = Failpoint::from_environment(environment);
        environment.finish()?;
        Ok(Self {
            address: address?,
            self_url: self_url?,
            database_url: database_url?,
            connections: connections?,
            service_secret: service_secret?,
            failpoint: failpoint?,
        })
    }
}

/// Why a status process does not start.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The service secret is too short.
    #[error("sign internal requests")]
    Tokens(#[from] service::tokens::TokenError),
    /// No pool can be made.
    #[error("prepare database connections")]
    Storage(#[from] StorageError),
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

/// A running status process.
#[derive(Debug, Clone)]
pub struct Handle {
    /// The address its listener really has.
    pub address: SocketAddr,
    /// Where others reach it.
    pub url: String,
}

/// What all parts of the process share.
pub(crate) struct Status {
    pub(crate) id: StatusId,
    pub(crate) url: String,
    pub(crate) database_url: SecretString,
    pub(crate) pool: Pool,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shutdown: Shutdown,
    pub(crate) metrics: Metrics,
    pub(crate) live: Live,
    pub(crate) failpoint: Failpoint,
    pub(crate) term: ArcSwapOption<Term>,
}

impl Status {
    /// A connection, within the pool's deadline.
    pub(crate) async fn connection(&self) -> Result<PooledConnection, StorageError> {
        self.pool.get().await.map_err(|error| StorageError::Unavailable(Box::new(error)))
    }

    /// The clock's time.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }
}

/// Starts the process's parts: they end with `shutdown`.
///
/// # Errors
/// [`StatusError`].
pub fn run(
    config: StatusConfig,
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
) -> Result<Handle, StatusError> {
    let tokens = Arc::new(ServiceTokens::new(&config.service_secret, "status", Arc::clone(&clock))?);
    let pool = storage::pool(config.database_url.expose_secret(), config.connections)?;
    let registry = service::metrics::registry();
    let metrics = Metrics::new(&registry);
    let listener = std::net::TcpListener::bind(config.address);
    let failed = |source| StatusError::Listen { address: config.address, source };
    let listener = listener.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let url = config.self_url.unwrap_or_else(|| format!("http://{address}"));
    let status = Arc::new(Status {
        id: StatusId::generate(),
        url: url.clone(),
        database_url: config.database_url,
        pool,
        live: Live::new(Arc::clone(&broker), metrics.live_events.clone()),
        broker,
        clock,
        shutdown: shutdown.clone(),
        metrics,
        failpoint: Failpoint::new(config.failpoint),
        term: ArcSwapOption::empty(),
    });
    let health = service::internal_http::endpoints(registry, readiness(&status), shutdown.drain.clone());
    let data = web::Data::from(Arc::clone(&status));
    let tokens = web::Data::from(tokens);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(data.clone())
            .app_data(tokens.clone())
            .app_data(service::problem::json_config(BODY_LIMIT))
            .service(
                web::scope("/internal/v1")
                    .wrap(from_fn(service::trace::surround))
                    // Outermost: only a caller with a token has a trace to continue.
                    .wrap(from_fn(service::tokens::require))
                    .configure(routes::configure),
            )
            .configure(health.clone())
    })
    .workers(2)
    .keep_alive(Duration::from_secs(75))
    .disable_signals()
    .shutdown_timeout(2)
    .listen(listener)
    .map_err(failed)?
    .run();
    serve(server, &shutdown);
    shutdown.spawn(leader::stand_for_election(Arc::clone(&status)));
    Ok(Handle { address, url })
}

/// Executors that drain still report: the listener ends only with the process's last task, or at `abort`.
fn serve(server: actix_web::dev::Server, shutdown: &Shutdown) {
    let handle = server.handle();
    let (drain, abort, tasks) = (shutdown.drain.clone(), shutdown.abort.clone(), shutdown.tasks.clone());
    tokio::spawn(async move {
        let stop = async {
            drain.cancelled().await;
            tokio::select! {
                () = tasks.wait() => {}
                () = abort.cancelled() => {}
            }
        };
        tokio::select! {
            ended = server => if let Err(error) = ended {
                tracing::error!(%error, "the internal listener ended");
            },
            () = stop => handle.stop(true).await,
        }
    });
}

fn readiness(status: &Arc<Status>) -> Readiness {
    let (database, broker) = (Arc::clone(status), Arc::clone(status));
    Readiness::new()
        .check("database", move || {
            let status = Arc::clone(&database);
            async move {
                let mut conn = status.connection().await.map_err(|error| error.to_string())?;
                let leader = storage::leader::current(&mut conn).await.map_err(|error| error.to_string())?;
                if leader.holder.is_some() { Ok(()) } else { Err("nobody leads yet".to_owned()) }
            }
        })
        .check("broker", move || {
            let status = Arc::clone(&broker);
            async move { status.broker.ready(Duration::from_secs(1)).await.map_err(|error| error.to_string()) }
        })
}

//! The listener: its own port, never the public one.

use std::{io, net::SocketAddr, sync::Arc};

use actix_web::{App, HttpServer, ResponseError as _, middleware::from_fn, web};
use secrecy::SecretString;
use service::{Clock, InternalClient, Problem, ProblemCode, Shutdown};

use crate::{engines, identity, keys, operations};

/// The largest body: a flow document.
const BODY_LIMIT: usize = 4 << 20;

/// What the admin listener is told.
#[derive(Debug)]
pub struct AdminConfig {
    /// Where to listen (port 0: a free one).
    pub address: SocketAddr,
    /// Checks operators' tokens.
    pub secret: SecretString,
    /// The pepper of key hashes.
    pub key_pepper: SecretString,
    /// Which models may be deployed: `provider/*` or `provider/model`.
    pub models: Vec<String>,
}

/// What its handlers share.
pub(crate) struct Admin {
    pub(crate) secret: SecretString,
    pub(crate) key_pepper: SecretString,
    pub(crate) models: Vec<String>,
    pub(crate) status: InternalClient,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Serves until `shutdown`; returns the address it really has.
///
/// # Errors
/// When the address cannot be bound.
pub fn serve(
    config: AdminConfig,
    status: InternalClient,
    clock: Arc<dyn Clock>,
    shutdown: &Shutdown,
) -> io::Result<SocketAddr> {
    let admin = web::Data::new(Admin {
        secret: config.secret,
        key_pepper: config.key_pepper,
        models: config.models,
        status,
        clock,
    });
    let server = HttpServer::new(move || {
        App::new()
            .app_data(admin.clone())
            .app_data(service::problem::json_config(BODY_LIMIT))
            .service(web::scope("/admin/v1").wrap(from_fn(service::trace::surround)).configure(routes))
            .default_service(web::to(|| async { Problem::new(ProblemCode::NotFound).error_response() }))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(2)
    .bind(config.address)?;
    let bound = server.addrs().first().copied().unwrap_or(config.address);
    let server = server.run();
    let handle = server.handle();
    let drain = shutdown.drain.clone();
    shutdown.spawn(async move {
        let server = tokio::spawn(server);
        drain.cancelled().await;
        handle.stop(true).await;
        // It has stopped: how it ended is of no interest any more.
        drop(server.await);
    });
    Ok(bound)
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .configure(identity::configure)
        .configure(engines::configure)
        .configure(keys::configure)
        .configure(operations::configure);
}

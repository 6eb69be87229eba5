//! The internal listener of every process: `/livez`, `/readyz`, `/metrics`. Never exposed to users.

use crate::{Problem, ProblemCode, Readiness, Shutdown, metrics, metrics::Registry, readiness::Failing};
use actix_web::{App, HttpResponse, HttpServer, ResponseError, web};
use std::{io, net::SocketAddr, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long one readiness check may take.
const CHECK_DEADLINE: Duration = Duration::from_secs(2);

/// Starts the listener on an address (port 0: a free one).
#[derive(Debug, Clone, Copy)]
pub struct HealthListener;

/// The health endpoints, for a listener that serves other things too. While draining, `/readyz` fails.
pub fn endpoints(
    registry: Registry,
    readiness: Readiness,
    drain: CancellationToken,
) -> impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static {
    let state = web::Data::new(State { registry, readiness, drain });
    move |config| {
        config.app_data(state.clone()).configure(routes);
    }
}

struct State {
    registry: Registry,
    readiness: Readiness,
    drain: CancellationToken,
}

impl HealthListener {
    /// Binds and serves until the process has drained; returns the address it really has. While draining, `/readyz`
    /// fails and the others still answer.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(
        address: SocketAddr,
        registry: Registry,
        readiness: Readiness,
        shutdown: &Shutdown,
    ) -> io::Result<SocketAddr> {
        let state = web::Data::new(State { registry, readiness, drain: shutdown.drain.clone() });
        let server = HttpServer::new(move || App::new().app_data(state.clone()).configure(routes))
            .workers(1)
            .disable_signals()
            .shutdown_timeout(1)
            .bind(address)?;
        let bound = server.addrs().first().copied().unwrap_or(address);
        let server = server.run();
        let handle = server.handle();
        let tasks = shutdown.tasks.clone();
        let abort = shutdown.abort.clone();
        // Not one of `tasks`, because it outlives them: an operator wants to see what a draining process still does.
        tokio::spawn(async move {
            tokio::select! {
                ended = server => if let Err(error) = ended {
                    tracing::error!(%error, "the internal listener ended");
                },
                () = tasks.wait() => handle.stop(false).await,
                () = abort.cancelled() => handle.stop(false).await,
            }
        });
        Ok(bound)
    }
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/livez", web::get().to(|| async { HttpResponse::Ok().body("ok\n") }))
        .route("/readyz", web::get().to(ready))
        .route("/metrics", web::get().to(show_metrics))
        .default_service(web::to(|| async { Problem::new(ProblemCode::NotFound).error_response() }));
}

async fn ready(state: web::Data<State>) -> Result<HttpResponse, Problem> {
    let mut failing = state.readiness.failing(CHECK_DEADLINE).await;
    if state.drain.is_cancelled() {
        failing.push(Failing { name: "draining", reason: "this process takes nothing new".to_owned() });
    }
    if failing.is_empty() {
        return Ok(HttpResponse::Ok().body("ok\n"));
    }
    let names: Vec<&str> = failing.iter().map(|f| f.name).collect();
    let problem = Problem::new(ProblemCode::Unavailable).detail(format!("not ready: {}", names.join(", ")));
    Err(failing.into_iter().fold(problem, |p, f| p.field("", f.name, f.reason)))
}

async fn show_metrics(state: web::Data<State>) -> HttpResponse {
    HttpResponse::Ok().content_type(metrics::CONTENT_TYPE).body(metrics::text(&state.registry))
}

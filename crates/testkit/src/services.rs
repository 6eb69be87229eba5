//! The servers that tests share.

use instances::{PostgresOptions, PrivatePostgres, PrivateRabbit, RabbitOptions};
use serde::{Deserialize, Serialize};
use service::Environment;
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Mutex,
};

/// Set by `with-services`: a superuser's URL of the database `postgres`.
pub const DATABASE_VARIABLE: &str = "LEKHIKA_TEST_DATABASE_URL";
/// Set by `with-services`: the URL of RabbitMQ.
pub const AMQP_VARIABLE: &str = "LEKHIKA_TEST_AMQP_URL";

/// A server that tests share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// Postgres.
    Postgres,
    /// RabbitMQ.
    Rabbitmq,
}

impl Server {
    const fn variable(self) -> &'static str {
        match self {
            Self::Postgres => DATABASE_VARIABLE,
            Self::Rabbitmq => AMQP_VARIABLE,
        }
    }

    /// Its argument of `with-services --serve`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Rabbitmq => "rabbitmq",
        }
    }
}

/// What `with-services --serve` prints when the server is ready.
#[derive(Debug, Serialize, Deserialize)]
pub struct Served {
    /// Where it is.
    pub url: String,
}

/// Options for a Postgres of tests: without waiting for the disk, with room for many tests at once.
#[must_use]
pub fn postgres_options(environment: &Environment) -> PostgresOptions {
    PostgresOptions {
        bin: environment.optional("LEKHIKA_PG_BIN").map(PathBuf::from),
        fast_and_loose: true,
        settings: vec![("max_connections".to_owned(), "400".to_owned())],
        ..PostgresOptions::default()
    }
}

/// Options for a RabbitMQ of tests.
#[must_use]
pub fn rabbit_options(environment: &Environment) -> RabbitOptions {
    RabbitOptions { sbin: environment.optional("LEKHIKA_RABBITMQ_SBIN").map(PathBuf::from), data_dir: None }
}

/// A Postgres of this test alone, to be stopped and killed at will.
pub async fn private_postgres() -> PrivatePostgres {
    let options = postgres_options(&Environment::from_process());
    PrivatePostgres::start(options).await.expect("start a private Postgres")
}

/// A RabbitMQ of this test alone, to be stopped and killed at will. Takes seconds to start.
pub async fn private_rabbit() -> PrivateRabbit {
    let options = rabbit_options(&Environment::from_process());
    PrivateRabbit::start(options).await.expect("start a private RabbitMQ")
}

/// The URL of a shared server: that of `with-services`, else of one that lives as long as this test process.
pub async fn url_of(server: Server) -> String {
    if let Some(url) = Environment::from_process().optional(server.variable()) {
        return url;
    }
    tokio::task::spawn_blocking(move || own_url(server)).await.expect("start a server")
}

struct Own {
    server: Server,
    url: String,
    /// Its standard input is open for as long as this process lives; when it closes, the server stops.
    _helper: Child,
}

static OWN: Mutex<Vec<Own>> = Mutex::new(Vec::new());

/// Statics are never dropped, so a helper process holds the server and watches us.
fn own_url(server: Server) -> String {
    let mut own = OWN.lock().expect("another test failed to start a server");
    if let Some(known) = own.iter().find(|o| o.server == server) {
        return known.url.clone();
    }
    let mut helper = Command::new(helper_program())
        .args(["--serve", server.name()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start with-services (run the tests with --workspace, so that it is built)");
    let mut line = String::new();
    BufReader::new(helper.stdout.take().expect("its output is piped")).read_line(&mut line).expect("read its answer");
    let served: Served = serde_json::from_str(&line).expect("with-services --serve failed: see its messages above");
    own.push(Own { server, url: served.url.clone(), _helper: helper });
    served.url
}

/// Test binaries are in `deps`, below the programs.
fn helper_program() -> PathBuf {
    let this = std::env::current_exe().expect("know the program that runs");
    let candidates = this.ancestors().skip(1).take(3).map(|folder| folder.join("with-services"));
    candidates.into_iter().find(|p| p.exists()).unwrap_or_else(|| PathBuf::from("with-services"))
}

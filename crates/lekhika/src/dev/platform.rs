//! Every service of the platform in this process, as if each were a process of its own.

use std::{
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use broker::{Broker, InProcessBroker};
use chrono::TimeDelta;
use instances::{PostgresOptions, PrivatePostgres};
use providers::simulator::{RunningSimulator, SimulatorConfig};
use secrecy::ExposeSecret as _;
use service::{Clock as _, Environment, Shutdown, SystemClock};

use crate::{bootstrap::Secrets, cli::DevArguments, client::say, signals::Ends};

/// How long running executions may go on when the platform ends.
const GRACE: Duration = Duration::from_secs(5);

/// Everything that runs.
pub(super) struct Platform {
    pub(super) public_url: String,
    pub(super) admin_url: String,
    pub(super) admin_token: String,
    services: Services,
    broker: Arc<InProcessBroker>,
    simulator: Shutdown,
    running_simulator: RunningSimulator,
    postgres: PrivatePostgres,
}

/// The services of the process, executors last.
struct Services {
    gateway: gateway::Handle,
    executors: Shutdown,
    edge: Shutdown,
    ledger: Shutdown,
}

impl Services {
    /// Starts every service as if it were a process of its own: each reads an environment, all share the broker.
    fn start(
        common: &Common<'_>,
        arguments: &DevArguments,
        database: String,
        broker: &Arc<dyn Broker>,
    ) -> anyhow::Result<Self> {
        let anywhere = || ("LEKHIKA_INTERNAL_ADDR", "127.0.0.1:0".to_owned());
        let (ledger, edge, executors) = (Shutdown::new(), Shutdown::new(), Shutdown::new());
        let config = status::StatusConfig::from_environment(
            &common.environment([anywhere(), ("LEKHIKA_DATABASE_URL", database)]),
        )?;
        let status = status::run(config, Arc::clone(broker), Arc::new(SystemClock), ledger.clone())?;
        let config = gateway::GatewayConfig::from_environment(&common.environment([
            anywhere(),
            ("LEKHIKA_PUBLIC_ADDR", format!("127.0.0.1:{}", arguments.public_port)),
            ("LEKHIKA_ADMIN_ADDR", format!("127.0.0.1:{}", arguments.admin_port)),
            ("LEKHIKA_STATUS_URLS", status.url.clone()),
        ]))?;
        let gateway = gateway::run(config, Arc::clone(broker), Arc::new(SystemClock), edge.clone())?;
        for number in 1..=arguments.executors {
            let config = executor::ExecutorConfig::from_environment(&common.environment([
                anywhere(),
                ("LEKHIKA_STATUS_URLS", status.url.clone()),
                ("LEKHIKA_EXECUTOR_NAME", format!("dev-{number}")),
            ]))?;
            executor::run(config, Arc::clone(broker), Arc::new(SystemClock), executors.clone())?;
        }
        Ok(Self { gateway, executors, edge, ledger })
    }
}

impl Platform {
    /// Dropped half-way, it leaves nothing behind but what a kill would: the services, which take work, are started last.
    pub(super) async fn start(
        arguments: &DevArguments,
        environment: &Environment,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let secrets = Secrets::of(folder)?;
        let postgres = PrivatePostgres::start(PostgresOptions {
            bin: environment.optional("LEKHIKA_PG_BIN").map(PathBuf::from),
            data_dir: Some(folder.join("postgres")),
            ..PostgresOptions::default()
        })
        .await
        .context("the database cannot be started")?;
        let database = postgres.url("postgres");
        storage::migrate(&database).await.context("the database cannot be migrated")?;
        let simulator = Shutdown::new();
        let local = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let config = SimulatorConfig { bind: local, ..SimulatorConfig::default() };
        let running_simulator = providers::simulator::run(config, simulator.drain.clone()).await?;
        let common = Common { secrets: &secrets, folder, environment, simulator: running_simulator.url() };
        let broker = Arc::new(InProcessBroker::new());
        let shared: Arc<dyn Broker> = broker.clone();
        let services = Services::start(&common, arguments, database, &shared)?;
        let admin_url = format!("http://{}", services.gateway.admin_address.context("the admin listener is on")?);
        let admin_token =
            admin::issue_token(&secrets.admin(), "dev", admin::Role::Owner, SystemClock.now(), TimeDelta::days(30))?;
        let public_url = services.gateway.public_url.clone();
        Ok(Self { public_url, admin_url, admin_token, services, broker, simulator, running_simulator, postgres })
    }

    pub(super) fn simulator_url(&self) -> String {
        self.running_simulator.url()
    }

    /// Ends in order. Told to end once more, it gives back at once what executors hold; once more, it waits for nothing.
    pub(super) async fn stop(self, ends: &mut Ends) {
        let Services { executors, edge, ledger, .. } = &self.services;
        let aborts = [executors, edge, ledger].map(|services| services.abort.clone());
        let mut stopping = pin!(self.stop_in_order());
        tokio::select! {
            () = &mut stopping => return,
            () = ends.next() => say("stopping at once"),
        }
        aborts.iter().for_each(tokio_util::sync::CancellationToken::cancel);
        tokio::select! {
            () = &mut stopping => {}
            () = ends.next() => {}
        }
    }

    /// Executors first, so that they can still report; the database last.
    async fn stop_in_order(mut self) {
        self.services.executors.stop(GRACE).await;
        self.services.edge.stop(Duration::from_secs(2)).await;
        self.services.ledger.stop(Duration::from_secs(2)).await;
        self.broker.close().await;
        self.simulator.drain.cancel();
        self.running_simulator.stopped().await;
        self.postgres.stop().await;
    }
}

/// What of the caller's environment reaches the roles.
const KEPT: [&str; 7] = [
    "LEKHIKA_OPENAI_API_KEY",
    "LEKHIKA_OPENAI_BASE_URL",
    "LEKHIKA_OPENAI_DIALECT",
    "LEKHIKA_SLOTS",
    "LEKHIKA_MODELS",
    "LEKHIKA_CALL_TIMEOUT_MS",
    "LEKHIKA_STORE_PATIENCE_MS",
];

/// What the configurations of all roles have in common.
struct Common<'a> {
    secrets: &'a Secrets,
    folder: &'a Path,
    environment: &'a Environment,
    simulator: String,
}

impl Common<'_> {
    /// The environment of one role: as if it were a process of its own.
    fn environment<const N: usize>(&self, own: [(&str, String); N]) -> Environment {
        let mut variables = vec![
            ("LEKHIKA_SERVICE_SECRET".to_owned(), self.secrets.service().expose_secret().to_owned()),
            ("LEKHIKA_KEY_PEPPER".to_owned(), self.secrets.key_pepper().expose_secret().to_owned()),
            ("LEKHIKA_ADMIN_SECRET".to_owned(), self.secrets.admin().expose_secret().to_owned()),
            ("LEKHIKA_LINK_SECRET".to_owned(), self.secrets.link().expose_secret().to_owned()),
            ("LEKHIKA_OBJECT_STORE".to_owned(), format!("file://{}", self.folder.join("files").display())),
            ("LEKHIKA_SIMULATOR_URL".to_owned(), self.simulator.clone()),
            ("LEKHIKA_DRAIN_GRACE_MS".to_owned(), GRACE.as_millis().to_string()),
        ];
        for name in KEPT {
            if let Some(value) = self.environment.optional(name) {
                variables.push((name.to_owned(), value));
            }
        }
        variables.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Environment::of(variables)
    }
}

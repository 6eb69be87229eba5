//! One service per process: configuration from the environment, signals, an orderly end.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use broker::{AmqpBroker, AmqpConfig, Broker};
use providers::simulator::SimulatorConfig;
use secrecy::ExposeSecret as _;
use service::{
    Clock, ConfigError, Environment, Shutdown, SystemClock,
    telemetry::{self, TelemetryConfig},
};

use crate::cli::SimulatorArguments;

/// How long a role that holds no executions may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// Runs a gateway until it is told to end.
///
/// # Errors
/// When its configuration is wrong or an address is taken.
pub async fn gateway() -> anyhow::Result<()> {
    let environment = Environment::from_process();
    let settings = Settings::read("gateway", &environment);
    let config = gateway::GatewayConfig::from_environment(&environment);
    environment.finish()?;
    let (process, config) = (Process::start("gateway", &settings?, GRACE)?, config?);
    let handle = gateway::run(config, process.broker.clone(), process.clock.clone(), process.shutdown.clone())?;
    tracing::info!(public = %handle.public_address, admin = ?handle.admin_address, "gateway is up");
    process.end(GRACE).await;
    Ok(())
}

/// Runs a status process until it is told to end.
///
/// # Errors
/// When its configuration is wrong or its address is taken.
pub async fn status() -> anyhow::Result<()> {
    let environment = Environment::from_process();
    let settings = Settings::read("status", &environment);
    let config = status::StatusConfig::from_environment(&environment);
    environment.finish()?;
    let (process, config) = (Process::start("status", &settings?, GRACE)?, config?);
    let handle = status::run(config, process.broker.clone(), process.clock.clone(), process.shutdown.clone())?;
    tracing::info!(address = %handle.address, "status is up");
    process.end(GRACE).await;
    Ok(())
}

/// Runs an executor until it is told to end.
///
/// # Errors
/// When its configuration is wrong.
pub async fn executor() -> anyhow::Result<()> {
    let environment = Environment::from_process();
    let settings = Settings::read("executor", &environment);
    let config = executor::ExecutorConfig::from_environment(&environment);
    environment.finish()?;
    let config = config?;
    let grace = config.drain_grace;
    let process = Process::start("executor", &settings?, grace)?;
    executor::run(config, process.broker.clone(), process.clock.clone(), process.shutdown.clone())?;
    tracing::info!("executor is up");
    process.end(grace).await;
    Ok(())
}

/// Brings the database to this release's form, or empties it.
///
/// # Errors
/// When the database cannot be reached or a migration fails.
pub async fn migrate(revert_all: bool) -> anyhow::Result<()> {
    let environment = Environment::from_process();
    let url = environment.secret_url("LEKHIKA_DATABASE_URL", &["postgres", "postgresql"])?;
    if revert_all {
        storage::revert_all(url.expose_secret()).await.context("the migrations cannot be undone")?;
        crate::client::say("every migration is undone");
    } else {
        storage::migrate(url.expose_secret()).await.context("the database cannot be migrated")?;
        crate::client::say("the database has this release's form");
    }
    Ok(())
}

/// Runs a simulator until it is told to end.
///
/// # Errors
/// When its address is taken.
pub async fn simulator(arguments: &SimulatorArguments) -> anyhow::Result<()> {
    let environment = Environment::from_process();
    let telemetry = telemetry::init("simulator", &TelemetryConfig::from_environment(&environment)?)?;
    let shutdown = Shutdown::new();
    shutdown.on_signals(GRACE)?;
    let config = SimulatorConfig { bind: arguments.address, seed: arguments.seed, ..SimulatorConfig::default() };
    let running = providers::simulator::run(config, shutdown.drain.clone()).await?;
    tracing::info!(url = %running.url(), "simulator is up");
    shutdown.drain.cancelled().await;
    running.stopped().await;
    telemetry.shutdown();
    Ok(())
}

/// What every role of a process of its own is told. Read before its own configuration, and looked at after it: a person
/// who sets variables wants to see all that are wrong.
struct Settings {
    telemetry: TelemetryConfig,
    amqp: AmqpConfig,
}

impl Settings {
    fn read(role: &str, environment: &Environment) -> Result<Self, ConfigError> {
        let telemetry = TelemetryConfig::from_environment(environment);
        let amqp = AmqpConfig::from_environment(environment, role);
        Ok(Self { telemetry: telemetry?, amqp: amqp? })
    }
}

/// What every role of a process of its own has.
struct Process {
    shutdown: Shutdown,
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    telemetry: telemetry::Telemetry,
}

impl Process {
    fn start(role: &str, settings: &Settings, grace: Duration) -> anyhow::Result<Self> {
        let telemetry = telemetry::init(role, &settings.telemetry)?;
        let shutdown = Shutdown::new();
        shutdown.on_signals(grace)?;
        let broker = Arc::new(AmqpBroker::start(&settings.amqp)?);
        Ok(Self { shutdown, broker, clock: Arc::new(SystemClock), telemetry })
    }

    async fn end(self, grace: Duration) {
        let ended = self.shutdown.wait(grace).await;
        self.broker.close().await;
        tracing::info!(?ended, "this process has ended in order");
        self.telemetry.shutdown();
    }
}

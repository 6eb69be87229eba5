//! One service per process: configuration from the environment, signals, an orderly end.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use broker::{AmqpBroker, AmqpConfig, Broker};
use providers::simulator::SimulatorConfig;
use secrecy::ExposeSecret as _;
use service::{
    Clock, Environment, Shutdown, SystemClock,
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
    let process = Process::start("gateway", &environment, GRACE)?;
    let config = gateway::GatewayConfig::from_environment(&environment)?;
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
    let process = Process::start("status", &environment, GRACE)?;
    let config = status::StatusConfig::from_environment(&environment)?;
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
    let grace = environment.duration_ms("LEKHIKA_DRAIN_GRACE_MS", Duration::from_secs(30));
    let config = executor::ExecutorConfig::from_environment(&environment)?;
    let process = Process::start("executor", &environment, grace.clone()?)?;
    executor::run(config, process.broker.clone(), process.clock.clone(), process.shutdown.clone())?;
    tracing::info!("executor is up");
    process.end(grace?).await;
    Ok(())
}

/// Brings the database to this release's form, or empties it.
///
/// # Errors
/// When the database cannot be reached or a migration fails.
pub async fn migrate(revert_all: bool) -> anyhow::Result<()> {
    let environment = Environment::from_process();
    let url = environment.secret("LEKHIKA_DATABASE_URL")?;
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

/// What every role of a process of its own has.
struct Process {
    shutdown: Shutdown,
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    telemetry: telemetry::Telemetry,
}

impl Process {
    fn start(role: &str, environment: &Environment, grace: Duration) -> anyhow::Result<Self> {
        let telemetry = telemetry::init(role, &TelemetryConfig::from_environment(environment)?)?;
        let shutdown = Shutdown::new();
        shutdown.on_signals(grace)?;
        let broker = Arc::new(AmqpBroker::start(&AmqpConfig::from_environment(environment, role)?)?);
        Ok(Self { shutdown, broker, clock: Arc::new(SystemClock), telemetry })
    }

    async fn end(self, grace: Duration) {
        let ended = self.shutdown.wait(grace).await;
        self.broker.close().await;
        tracing::info!(?ended, "this process has ended in order");
        self.telemetry.shutdown();
    }
}

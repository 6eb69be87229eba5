//! `lekhika dev`: the whole platform in one process, and the sample through its public API.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use broker::{Broker, InProcessBroker};
use chrono::TimeDelta;
use instances::{PostgresOptions, PrivatePostgres};
use providers::simulator::{RunningSimulator, SimulatorConfig};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use service::{
    Clock as _, Environment, Shutdown, SystemClock,
    telemetry::{self, TelemetryConfig},
};

use crate::{
    bootstrap::{self, AdminClient, Demo, Secrets},
    cli::DevArguments,
    client::{self, api::ApiClient, say},
};

/// How long running executions may go on when the platform ends.
const GRACE: Duration = Duration::from_secs(5);
/// How long the platform may take to answer its first request.
const UP_WITHIN: Duration = Duration::from_secs(30);
/// The model that writes when an OpenAI-compatible provider is configured and no model is named.
const OPENAI_MODEL: &str = "gpt-4o-mini";

/// Runs the platform until it is told to end, or (`--once`) until the sample is done.
///
/// # Errors
/// When something cannot be started, or the sample did not complete.
pub async fn run(arguments: DevArguments) -> anyhow::Result<()> {
    let environment = Environment::from_process();
    let mut logs = TelemetryConfig::from_environment(&environment)?;
    if environment.optional("LEKHIKA_LOG").is_none() {
        logs.filter = "error".to_owned();
    }
    logs.text = true;
    let telemetry = telemetry::init("dev", &logs)?;
    let folder = data_dir(arguments.data_dir.as_deref(), &environment)?;
    let mut ends = Ends::listen()?;
    let result = tokio::select! {
        result = up_and_sample(&arguments, &environment, &folder) => result,
        () = ends.next() => Ok(None),
    };
    let result = match result {
        Ok(Some((platform, sample))) => {
            let ended = if arguments.once || sample.is_err() { sample } else { wait(&mut ends).await };
            platform.stop().await;
            ended
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    telemetry.shutdown();
    result
}

async fn up_and_sample(
    arguments: &DevArguments,
    environment: &Environment,
    folder: &Path,
) -> anyhow::Result<Option<(Platform, anyhow::Result<()>)>> {
    let platform = Platform::start(arguments, environment, folder).await?;
    let sample = if arguments.no_sample {
        Ok(())
    } else {
        match sample(&platform, folder).await {
            Ok(files) => {
                platform.introduce(&files);
                Ok(())
            }
            Err(error) => Err(error),
        }
    };
    Ok(Some((platform, sample)))
}

async fn wait(ends: &mut Ends) -> anyhow::Result<()> {
    ends.next().await;
    say("stopping");
    Ok(())
}

/// SIGINT and SIGTERM.
struct Ends {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Ends {
    fn listen() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Root's database runs as another user, who must be able to reach it: not below root's home.
fn data_dir(asked: Option<&Path>, environment: &Environment) -> anyhow::Result<PathBuf> {
    let folder = match asked {
        Some(folder) => std::path::absolute(folder)?,
        None if nix::unistd::Uid::effective().is_root() => PathBuf::from("/var/lib/lekhika/dev"),
        None => match environment.optional("XDG_DATA_HOME") {
            Some(data) => PathBuf::from(data).join("lekhika/dev"),
            None => PathBuf::from(environment.required("HOME")?).join(".local/share/lekhika/dev"),
        },
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
    Ok(folder)
}

/// Everything that runs.
struct Platform {
    public_url: String,
    admin_url: String,
    demo: Demo,
    simulated: bool,
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
    async fn start(arguments: &DevArguments, environment: &Environment, folder: &Path) -> anyhow::Result<Self> {
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
        let token =
            admin::issue_token(&secrets.admin(), "dev", admin::Role::Owner, SystemClock.now(), TimeDelta::days(30))?;
        let admin = AdminClient::new(&admin_url, SecretString::from(token.clone()))?;
        let model = environment.or("LEKHIKA_OPENAI_MODEL", OPENAI_MODEL);
        let model = environment.optional_secret("LEKHIKA_OPENAI_API_KEY").map(|_key| format!("openai/{model}"));
        let demo = bootstrapped(&admin, folder, model.as_deref()).await?;
        let platform = Self {
            public_url: services.gateway.public_url.clone(),
            admin_url,
            demo,
            simulated: model.is_none(),
            services,
            broker,
            simulator,
            running_simulator,
            postgres,
        };
        platform.write_file(folder, &token)?;
        Ok(platform)
    }

    fn write_file(&self, folder: &Path, token: &str) -> anyhow::Result<()> {
        let file = json!({
            "publicUrl": self.public_url,
            "adminUrl": self.admin_url,
            "apiKey": self.demo.api_key.expose_secret(),
            "engineId": self.demo.engine_id,
            "adminToken": token,
            "simulatorUrl": self.running_simulator.url(),
            "pid": std::process::id(),
        });
        bootstrap::write_private(&folder.join("dev.json"), &format!("{file:#}\n"))
    }

    /// What a newcomer does next.
    fn introduce(&self, files: &[PathBuf]) {
        let (base, key) = (&self.public_url, self.demo.api_key.expose_secret());
        let input = serde_json::from_str::<Value>(bootstrap::SAMPLE_INPUT).unwrap_or_default();
        let body = json!({ "input": input }).to_string().replace('\'', "'\\''");
        say("");
        if self.simulated {
            say(
                "The text was written by a simulator, not by a model: it means nothing. Set LEKHIKA_OPENAI_API_KEY for a model.",
            );
        }
        for file in files {
            say(&format!("  {}", file.display()));
        }
        say("");
        say(&format!("API   {base}"));
        say(&format!("docs  {base}/docs/"));
        say(&format!("key   {key}   (shown once; each start makes a new one)"));
        say("");
        say("Submit, stream, stop:");
        say(&format!(
            "  curl -sX POST {base}/v1/engines/field-guide/execute -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d '{body}'"
        ));
        say(&format!(
            "  curl -N {base}/v1/executions/EXECUTION_ID/events -H 'Authorization: Bearer {key}' -H 'Accept: text/event-stream'"
        ));
        say(&format!("  curl -sX POST {base}/v1/executions/EXECUTION_ID/stop -H 'Authorization: Bearer {key}'"));
        say("");
        say("Ctrl-C stops everything.");
    }

    /// Executors first, so that they can still report; the database last.
    async fn stop(mut self) {
        self.services.executors.stop(GRACE).await;
        self.services.edge.stop(Duration::from_secs(2)).await;
        self.services.ledger.stop(Duration::from_secs(2)).await;
        self.broker.close().await;
        self.simulator.drain.cancel();
        self.running_simulator.stopped().await;
        self.postgres.stop().await;
    }
}

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
        for name in ["LEKHIKA_OPENAI_API_KEY", "LEKHIKA_OPENAI_BASE_URL", "LEKHIKA_SLOTS"] {
            if let Some(value) = self.environment.optional(name) {
                variables.push((name.to_owned(), value));
            }
        }
        variables.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Environment::of(variables)
    }
}

/// The leader needs a moment to be elected: until then the platform says so.
pub(crate) async fn bootstrapped(admin: &AdminClient, folder: &Path, model: Option<&str>) -> anyhow::Result<Demo> {
    let deadline = Instant::now() + UP_WITHIN;
    loop {
        match bootstrap::demo(admin, folder, model).await {
            Ok(demo) => return Ok(demo),
            Err(error) if Instant::now() >= deadline => return Err(error.context("the platform does not come up")),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// The sample, as any client would run it.
async fn sample(platform: &Platform, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let client = ApiClient::new(&platform.public_url, platform.demo.api_key.clone())?;
    let input: Value = serde_json::from_str(bootstrap::SAMPLE_INPUT).context("the sample's input is JSON")?;
    client::run_input(&client, "field-guide", &input, &folder.join("out")).await
}

//! `lekhika stack`: the distributed layout on one machine, on private Postgres and RabbitMQ. What dies is started again.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use chrono::TimeDelta;
use instances::{PostgresOptions, PrivatePostgres, PrivateRabbit, RabbitOptions};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use service::{Clock as _, Environment, SystemClock};
use tokio::process::{Child, Command};

use crate::{
    bootstrap::{self, AdminClient, Demo, Secrets},
    cli::StackArguments,
    client::say,
    dev::bootstrapped,
};

/// How often children are looked at, and how long a dead one rests before it is started again.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const REST: Duration = Duration::from_secs(1);
/// How long executors may drain when the stack ends.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a process may take to end before it is killed.
const END_WITHIN: Duration = Duration::from_secs(15);

/// Starts the layout, writes `stack.json`, and keeps it up until SIGTERM or SIGINT.
///
/// # Errors
/// When something cannot be started.
pub async fn run(arguments: StackArguments) -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut stack = tokio::select! {
        stack = Stack::start(&arguments) => stack?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    say(&format!("ready: {}", stack.folder.join("stack.json").display()));
    let ended = tokio::select! {
        result = stack.keep_up(arguments.no_restart) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    stack.stop().await;
    ended
}

/// One process of ours.
struct Member {
    role: &'static str,
    name: String,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    child: Option<Child>,
}

struct Stack {
    folder: PathBuf,
    postgres: PrivatePostgres,
    rabbit: PrivateRabbit,
    members: Vec<Member>,
    facts: Facts,
}

/// What `stack.json` says besides the processes.
struct Facts {
    public_urls: Vec<String>,
    admin_url: String,
    admin_token: String,
    simulator_url: String,
    database_url: String,
    demo: Option<Demo>,
}

impl Stack {
    async fn start(arguments: &StackArguments) -> anyhow::Result<Self> {
        let folder = std::path::absolute(&arguments.data_dir)?;
        std::fs::create_dir_all(folder.join("logs"))
            .with_context(|| format!("`{}` cannot be made", folder.display()))?;
        drop(std::fs::remove_file(folder.join("stack.json")));
        let environment = Environment::from_process();
        let secrets = Secrets::of(&folder)?;
        let (postgres, rabbit) = servers(arguments, &environment, &folder).await?;
        let database_url = postgres.url("postgres");
        storage::migrate(&database_url).await.context("the database cannot be migrated")?;
        let plan = Plan::new(arguments, &secrets, &folder, &database_url, &rabbit.url())?;
        let token =
            admin::issue_token(&secrets.admin(), "stack", admin::Role::Owner, SystemClock.now(), TimeDelta::days(30))?;
        let facts = Facts {
            public_urls: plan.public_urls,
            admin_url: plan.admin_url,
            admin_token: token.clone(),
            simulator_url: plan.simulator_url,
            database_url,
            demo: None,
        };
        let mut stack = Self { folder, postgres, rabbit, members: plan.members, facts };
        for at in 0..stack.members.len() {
            stack.spawn(at)?;
        }
        let admin = AdminClient::new(&stack.facts.admin_url, SecretString::from(token))?;
        stack.facts.demo = Some(bootstrapped(&admin, &stack.folder, None).await?);
        stack.executors_are_up(&admin, arguments.executors.into()).await?;
        stack.write_file()?;
        Ok(stack)
    }

    /// Ready means that work would run: every executor has renewed.
    async fn executors_are_up(&self, admin: &AdminClient, wanted: usize) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let seen = admin.get("/executors").await.ok();
            let alive = seen.as_ref().and_then(|value| value.get("data")).and_then(Value::as_array).map_or(0, Vec::len);
            if alive >= wanted {
                return Ok(());
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "the executors do not come up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn spawn(&mut self, at: usize) -> anyhow::Result<()> {
        let Some(member) = self.members.get_mut(at) else { return Ok(()) };
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("logs/{}.log", member.name)))?;
        let child = Command::new(std::env::current_exe()?)
            .args(&member.arguments)
            .envs(&member.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C reaches this process first; it ends the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("`{}` cannot be started", member.name))?;
        member.child = Some(child);
        Ok(())
    }

    /// Starts again what died, with its data.
    async fn keep_up(&mut self, no_restart: bool) -> anyhow::Result<()> {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let dead: Vec<usize> = self
                .members
                .iter_mut()
                .enumerate()
                .filter_map(|(at, member)| {
                    let ended = member.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))));
                    ended.then_some(at)
                })
                .collect();
            let servers = [self.postgres.pid(), self.rabbit.pid()];
            let servers_dead = servers.map(|pid| pid.is_none_or(|pid| !is_alive(pid)));
            if no_restart || (dead.is_empty() && servers_dead == [false, false]) {
                continue;
            }
            tokio::time::sleep(REST).await;
            if servers_dead[0] {
                say("postgres died: starting it again");
                self.postgres.kill9();
                self.postgres.start_again().await?;
            }
            if servers_dead[1] {
                say("rabbitmq died: starting it again");
                self.rabbit.kill9();
                self.rabbit.start_again().await?;
            }
            for at in dead {
                if let Some(member) = self.members.get(at) {
                    say(&format!("{} died: starting it again", member.name));
                }
                self.spawn(at)?;
            }
            self.write_file()?;
        }
    }

    fn write_file(&self) -> anyhow::Result<()> {
        let mut processes: Vec<Value> = self
            .members
            .iter()
            .map(|member| {
                let pid = member.child.as_ref().and_then(Child::id);
                json!({ "role": member.role, "name": member.name, "pid": pid })
            })
            .collect();
        processes.push(json!({ "role": "postgres", "name": "postgres", "pid": self.postgres.pid() }));
        processes.push(json!({ "role": "rabbitmq", "name": "rabbitmq", "pid": self.rabbit.pid() }));
        let demo = self.facts.demo.as_ref();
        let file = json!({
            "publicUrls": self.facts.public_urls,
            "adminUrl": self.facts.admin_url,
            "apiKey": demo.map(|demo| demo.api_key.expose_secret()),
            "adminToken": self.facts.admin_token,
            "engineId": demo.map(|demo| &demo.engine_id),
            "simulatorUrl": self.facts.simulator_url,
            "amqpUrl": self.rabbit.url(),
            "databaseUrl": self.facts.database_url,
            "processes": processes,
        });
        bootstrap::write_private(&self.folder.join("stack.json"), &format!("{file:#}\n"))
    }

    /// Executors first, so that they can still report; the servers last.
    async fn stop(mut self) {
        for role in ["executor", "gateway", "status", "simulator"] {
            for member in self.members.iter().filter(|member| member.role == role) {
                if let Some(pid) = member.child.as_ref().and_then(Child::id) {
                    signal(pid, nix::sys::signal::Signal::SIGTERM);
                }
            }
            for member in self.members.iter_mut().filter(|member| member.role == role) {
                if let Some(child) = &mut member.child
                    && tokio::time::timeout(END_WITHIN, child.wait()).await.is_err()
                {
                    say(&format!("{} does not end: killing it", member.name));
                    drop(child.kill().await);
                }
            }
        }
        self.rabbit.stop().await;
        self.postgres.stop().await;
        drop(std::fs::remove_file(self.folder.join("stack.json")));
    }
}

/// The two servers, started side by side.
async fn servers(
    arguments: &StackArguments,
    environment: &Environment,
    folder: &Path,
) -> anyhow::Result<(PrivatePostgres, PrivateRabbit)> {
    let postgres = PrivatePostgres::start(PostgresOptions {
        bin: environment.optional("LEKHIKA_PG_BIN").map(PathBuf::from),
        data_dir: Some(folder.join("postgres")),
        fast_and_loose: !arguments.durable,
        settings: vec![("max_connections".to_owned(), "200".to_owned())],
        ..PostgresOptions::default()
    });
    let rabbit = PrivateRabbit::start(RabbitOptions {
        sbin: environment.optional("LEKHIKA_RABBITMQ_SBIN").map(PathBuf::from),
        data_dir: Some(folder.join("rabbitmq")),
    });
    let (postgres, rabbit) = tokio::join!(postgres, rabbit);
    Ok((postgres.context("Postgres cannot be started")?, rabbit.context("RabbitMQ cannot be started")?))
}

/// Which processes there are, and what each is told.
struct Plan {
    members: Vec<Member>,
    public_urls: Vec<String>,
    admin_url: String,
    simulator_url: String,
}

impl Plan {
    fn new(
        arguments: &StackArguments,
        secrets: &Secrets,
        folder: &Path,
        database_url: &str,
        amqp_url: &str,
    ) -> anyhow::Result<Self> {
        let mut ports = Ports::default();
        let simulator = ports.next()?;
        let statuses: Vec<String> = (0..arguments.statuses).map(|_| ports.next()).collect::<anyhow::Result<_>>()?;
        let status_urls = statuses.iter().map(|address| format!("http://{address}")).collect::<Vec<_>>().join(",");
        let common = BTreeMap::from([
            ("LEKHIKA_DATABASE_URL".to_owned(), database_url.to_owned()),
            ("LEKHIKA_AMQP_URL".to_owned(), amqp_url.to_owned()),
            ("LEKHIKA_SERVICE_SECRET".to_owned(), secrets.service().expose_secret().to_owned()),
            ("LEKHIKA_KEY_PEPPER".to_owned(), secrets.key_pepper().expose_secret().to_owned()),
            ("LEKHIKA_ADMIN_SECRET".to_owned(), secrets.admin().expose_secret().to_owned()),
            ("LEKHIKA_LINK_SECRET".to_owned(), secrets.link().expose_secret().to_owned()),
            ("LEKHIKA_OBJECT_STORE".to_owned(), format!("file://{}", folder.join("files").display())),
            ("LEKHIKA_SIMULATOR_URL".to_owned(), format!("http://{simulator}")),
            ("LEKHIKA_STATUS_URLS".to_owned(), status_urls),
            ("LEKHIKA_SLOTS".to_owned(), arguments.slots.to_string()),
            ("LEKHIKA_DRAIN_GRACE_MS".to_owned(), DRAIN.as_millis().to_string()),
        ]);
        let mut members = Vec::new();
        let mut add = |role: &'static str, name: String, arguments: Vec<String>, own: Vec<(&str, String)>| {
            let mut environment = common.clone();
            environment.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
            members.push(Member { role, name, arguments, environment, child: None });
        };
        let command = |role: &str| vec![role.to_owned()];
        add(
            "simulator",
            "simulator".to_owned(),
            vec!["simulator".into(), "--address".into(), simulator.clone()],
            vec![],
        );
        for (number, address) in statuses.iter().enumerate() {
            let own =
                vec![("LEKHIKA_INTERNAL_ADDR", address.clone()), ("LEKHIKA_SELF_URL", format!("http://{address}"))];
            add("status", format!("status-{}", number + 1), command("status"), own);
        }
        let (mut public_urls, mut admin_url) = (Vec::new(), String::new());
        for number in 1..=arguments.gateways {
            let (public, admin) = (ports.next()?, ports.next()?);
            public_urls.push(format!("http://{public}"));
            if number == 1 {
                admin_url = format!("http://{admin}");
            }
            let own = vec![
                ("LEKHIKA_PUBLIC_ADDR", public),
                ("LEKHIKA_ADMIN_ADDR", admin),
                ("LEKHIKA_INTERNAL_ADDR", ports.next()?),
            ];
            add("gateway", format!("gateway-{number}"), command("gateway"), own);
        }
        for number in 1..=arguments.executors {
            let name = format!("executor-{number}");
            let own = vec![("LEKHIKA_EXECUTOR_NAME", name.clone()), ("LEKHIKA_INTERNAL_ADDR", ports.next()?)];
            add("executor", name, command("executor"), own);
        }
        Ok(Self { members, public_urls, admin_url, simulator_url: format!("http://{simulator}") })
    }
}

/// Free ports, held until the plan is made, so that none is given twice.
#[derive(Default)]
struct Ports(Vec<std::net::TcpListener>);

impl Ports {
    fn next(&mut self) -> anyhow::Result<String> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no port is free")?;
        let address = listener.local_addr()?.to_string();
        self.0.push(listener);
        Ok(address)
    }
}

fn is_alive(pid: u32) -> bool {
    // A zombie of ours still has its entry: its state says that it is dead.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may have ended by itself.
        let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

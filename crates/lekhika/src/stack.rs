//! `lekhika stack`: the distributed layout on one machine, on private Postgres and RabbitMQ. What dies is started again.

mod member;
mod plan;

use std::{
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use anyhow::Context as _;
use chrono::TimeDelta;
use instances::{Folder, PostgresOptions, PrivatePostgres, PrivateRabbit, RabbitOptions};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use service::{Clock as _, Environment, SystemClock};

use crate::{
    bootstrap::{self, AdminClient, Demo, Secrets},
    cli::StackArguments,
    client::say,
    signals::Ends,
};
use member::Member;
use plan::{Ground, Plan};

/// How often children are looked at, and how long a dead one rests before it is started again.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const REST: Duration = Duration::from_secs(1);
/// How long the processes may take until all of them are ready.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// How long a process may take to end before it is killed.
const END_WITHIN: Duration = Duration::from_secs(15);
/// What says where everything is, for as long as it is there.
const FILE: &str = "stack.json";

/// Starts the layout, writes `stack.json`, and keeps it up until it is told to end. Told twice, it waits for nobody.
///
/// # Errors
/// When something cannot be started.
pub async fn run(arguments: StackArguments) -> anyhow::Result<()> {
    let mut ends = Ends::listen()?;
    let folder = Folder::own(&std::path::absolute(&arguments.data_dir)?)?;
    // From here on the folder is ours: what it says of an earlier run, and what that left running, is over.
    drop(std::fs::remove_file(folder.path().join(FILE)));
    folder.kill_marked();
    let mut stack = tokio::select! {
        stack = Stack::start(&arguments, folder) => stack?,
        () = ends.next() => return Ok(()),
    };
    say(&format!("ready: {}", stack.folder.path().join(FILE).display()));
    tokio::select! {
        () = stack.keep_up(arguments.no_restart) => {}
        () = ends.next() => {}
    }
    let mut stopping = pin!(stack.stop());
    tokio::select! {
        () = &mut stopping => {}
        () = ends.next() => say("killing what has not ended"),
    }
    Ok(())
}

/// In the order in which they are dropped when a start fails: who uses something goes before it.
struct Stack {
    members: Vec<Member>,
    rabbit: PrivateRabbit,
    postgres: PrivatePostgres,
    facts: Facts,
    folder: Folder,
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
    async fn start(arguments: &StackArguments, folder: Folder) -> anyhow::Result<Self> {
        let path = folder.path();
        let logs = path.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| format!("`{}` cannot be made", logs.display()))?;
        let environment = Environment::from_process();
        let secrets = Secrets::of(path)?;
        let (postgres, rabbit) = servers(arguments, &environment, path).await?;
        let database_url = postgres.url("postgres");
        storage::migrate(&database_url).await.context("the database cannot be migrated")?;
        let plan = Plan::new(&Ground {
            arguments,
            environment: &environment,
            secrets: &secrets,
            folder: path,
            database_url: &database_url,
            amqp_url: &rabbit.url(),
        })?;
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
        let mut stack = Self { members: plan.members, rabbit, postgres, facts, folder };
        for member in &mut stack.members {
            member.spawn(&stack.folder)?;
        }
        stack.ready().await?;
        let admin = AdminClient::new(&stack.facts.admin_url, SecretString::from(token))?;
        stack.facts.demo = Some(bootstrap::demo_when_up(&admin, stack.folder.path(), None).await?);
        stack.write_file()?;
        Ok(stack)
    }

    /// Ready means that work would run: every process says so of itself, so one of an earlier run is not counted.
    async fn ready(&mut self) -> anyhow::Result<()> {
        let http = service::http_client::build(&service::http_client::ClientConfig::reaching("http://127.0.0.1"))?;
        let deadline = tokio::time::Instant::now() + UP_WITHIN;
        for member in &mut self.members {
            while let Err(reason) = member.ready(&http).await {
                let waiting = tokio::time::Instant::now() < deadline && !member.is_dead();
                let (name, folder) = (&member.name, self.folder.path().display());
                anyhow::ensure!(waiting, "{name} does not come up ({reason}); see {folder}/logs/{name}.log");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Starts again what died, with its data. What cannot be started now is tried again.
    async fn keep_up(&mut self, no_restart: bool) {
        if no_restart {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let dead: Vec<usize> =
                self.members.iter_mut().enumerate().filter_map(|(at, member)| member.is_dead().then_some(at)).collect();
            let [postgres, rabbit] = [self.postgres.pid(), self.rabbit.pid()].map(|pid| !pid.is_some_and(is_alive));
            if dead.is_empty() && !postgres && !rabbit {
                continue;
            }
            tokio::time::sleep(REST).await;
            for at in dead {
                if let Some(member) = self.members.get_mut(at) {
                    say(&format!("{} died: starting it again", member.name));
                    said(&member.name.clone(), member.spawn(&self.folder));
                }
            }
            if postgres {
                say("postgres died: starting it again");
                said("postgres", self.postgres.start_again().await);
            }
            if rabbit {
                say("rabbitmq died: starting it again");
                said("rabbitmq", self.rabbit.start_again().await);
            }
            said(FILE, self.write_file());
        }
    }

    fn write_file(&self) -> anyhow::Result<()> {
        let mut processes: Vec<Value> = self
            .members
            .iter()
            .map(|member| {
                json!({
                    "role": member.role, "name": member.name, "pid": member.pid(), "internalUrl": member.internal_url,
                })
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
        bootstrap::write_private(&self.folder.path().join(FILE), &format!("{file:#}\n"))
    }

    /// Executors first, so that they can still report; the servers last.
    async fn stop(mut self) {
        drop(std::fs::remove_file(self.folder.path().join(FILE)));
        for role in ["executor", "gateway", "status", "simulator"] {
            for member in self.members.iter().filter(|member| member.role == role) {
                member.ask_to_end();
            }
            for member in self.members.iter_mut().filter(|member| member.role == role) {
                if !member.ended_within(END_WITHIN).await {
                    say(&format!("{} did not end: it was killed", member.name));
                }
            }
        }
        self.rabbit.stop().await;
        self.postgres.stop().await;
    }
}

/// A failure now is not the end: the next look finds it dead, and tries again.
fn said<E: Into<anyhow::Error>>(name: &str, started: Result<(), E>) {
    if let Err(error) = started {
        say(&format!("{name} failed: {:#}", error.into()));
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

fn is_alive(pid: u32) -> bool {
    // A zombie of ours still has its entry: its state says that it is dead.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

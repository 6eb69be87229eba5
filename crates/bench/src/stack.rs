//! One private platform: started for a group of scenarios, stopped after it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// The platform's start includes making a database cluster and starting a RabbitMQ node.
const START: Duration = Duration::from_secs(120);
const LOG: &str = "bench-stack.log";
const LOG_LINES: usize = 20;
const STOP: Duration = Duration::from_secs(40);

/// What `scripts/stack` writes once everything is ready.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Facts {
    /// One per gateway.
    pub(crate) public_urls: Vec<String>,
    /// The admin listener.
    pub(crate) admin_url: String,
    /// A JWT for it.
    pub(crate) admin_token: String,
    /// The model provider.
    pub(crate) simulator_url: String,
    /// The private RabbitMQ.
    pub(crate) amqp_url: String,
    /// The private Postgres.
    pub(crate) database_url: String,
    /// All processes, Postgres and RabbitMQ included.
    pub(crate) processes: Vec<Process>,
}

/// One process of the platform.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Process {
    /// `gateway`, `status`, `executor`, `simulator`, `postgres` or `rabbitmq`.
    pub(crate) role: String,
    /// Such as `executor-2`.
    pub(crate) name: String,
    /// The top of its process tree.
    pub(crate) pid: u32,
}

/// The process that starts a platform and keeps it. Dropping it asks it to stop; [`Platform::stop`] also waits for that.
#[derive(Debug)]
pub(crate) struct Platform {
    child: Child,
    folder: PathBuf,
    spawned: SystemTime,
}

/// A platform that is ready: where it is and what it consists of.
#[derive(Debug)]
pub(crate) struct Stack {
    /// As it says itself.
    pub(crate) facts: Facts,
}

impl Platform {
    /// Starts `command --data-dir folder --durable --no-restart layout..`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn spawn(command: &str, folder: &Path, layout: &[&str]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("making the folder `{}`", folder.display()))?;
        let log_path = folder.join(LOG);
        let log = File::create(&log_path).with_context(|| format!("writing `{}`", log_path.display()))?;
        let mut words = command.split_whitespace();
        let program = words.next().context("the command that starts a platform is empty")?;
        let spawned = SystemTime::now();
        let child = Command::new(program)
            .args(words)
            .arg("--data-dir")
            .arg(folder)
            .args(["--durable", "--no-restart"])
            .args(layout)
            // A marked platform ends when we are killed.
            .env("LEKHIKA_INSTANCE", folder.join("bench"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the benchmark: it stops the platform in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting `{command}`"))?;
        Ok(Self { child, folder: folder.to_owned(), spawned })
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready within two minutes; the message has the end of its log.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<Stack> {
        let ready = ready(&mut self.child, &self.folder.join("stack.json"), self.spawned).await;
        // The folder may be a temporary one: the end of the log is all that stays.
        let log = || format!("starting the platform; its log ends with\n{}", tail(&self.folder.join(LOG)));
        ready.map(|facts| Stack { facts }).with_context(log)
    }

    /// Stops the platform and waits until it has ended.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        ask_to_stop(&self.child);
        if timeout(STOP, self.child.wait()).await.is_err() {
            self.child.kill().await.context("killing the platform")?;
            bail!("the platform did not stop within {} s", STOP.as_secs());
        }
        Ok(())
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        ask_to_stop(&self.child);
    }
}

impl Stack {
    /// Stops all executors where they are: what is submitted stays queued.
    ///
    /// # Errors
    /// When a process is gone.
    pub(crate) fn pause_executors(&self) -> anyhow::Result<()> {
        self.signal_executors(Signal::SIGSTOP)
    }

    /// Lets paused executors go on.
    ///
    /// # Errors
    /// When a process is gone.
    pub(crate) fn resume_executors(&self) -> anyhow::Result<()> {
        self.signal_executors(Signal::SIGCONT)
    }

    fn signal_executors(&self, signal: Signal) -> anyhow::Result<()> {
        for process in self.facts.processes.iter().filter(|process| process.role == "executor") {
            let pid = Pid::from_raw(i32::try_from(process.pid)?);
            kill(pid, signal).with_context(|| format!("sending {signal} to {}", process.name))?;
        }
        Ok(())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // A stopped process would not hear that it has to end.
        let _ = self.resume_executors();
    }
}

fn ask_to_stop(child: &Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may have ended by itself; then there is nothing to stop.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n")
}

async fn ready(child: &mut Child, file: &Path, spawned: SystemTime) -> anyhow::Result<Facts> {
    let deadline = Instant::now() + START;
    // What a killed run left in the folder is there until the new one has the folder's lock.
    let is_new = || file.metadata().and_then(|meta| meta.modified()).is_ok_and(|modified| modified >= spawned);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            bail!("it ended with {status}");
        }
        if is_new() {
            let text = std::fs::read(file).with_context(|| format!("reading `{}`", file.display()))?;
            return serde_json::from_slice(&text).with_context(|| format!("reading `{}`", file.display()));
        }
        sleep(Duration::from_millis(50)).await;
    }
    bail!("`{}` did not appear within {} s", file.display(), START.as_secs())
}

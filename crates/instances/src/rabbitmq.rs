//! A private RabbitMQ node on free ports of 127.0.0.1.
//!
//! Everything a node shares with others by default is its own here: name, ports, the port mapper (`epmd`), home folder,
//! cookie, data, logs, plugins. So it disturbs no other node, also not one of the system.

use crate::{
    InstanceError,
    error::os,
    folder::Folder,
    ports::{free_port, is_free},
    process::{Process, search_path, tail, wait_until},
    user::RunAs,
};
use nix::sys::signal::Signal;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A node takes 3-5 s on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// An orderly stop closes connections and writes queues.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
/// How often ports are drawn before a start fails.
const DRAWS: usize = 5;
/// The same at every start, because the data belongs to the node of this name. Names are known to a port mapper, and each
/// node has its own, so equal names of different folders do not meet.
const NODE_NAME: &str = "lekhika@localhost";
/// What AMQP 0-9-1 clients say first.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// Two schedulers that do not spin, because a private node shares the machine. No input: see `RABBITMQ_ALLOW_INPUT`.
const ERLANG: &str = "-noinput +S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none";

/// How the node is made and run.
#[derive(Debug, Clone, Default)]
pub struct RabbitOptions {
    /// The folder of `rabbitmq-server` itself, not of its wrappers; `None`: the newest that is installed (a variable
    /// `LEKHIKA_RABBITMQ_SBIN` is read by the caller).
    pub sbin: Option<PathBuf>,
    /// Kept between starts; `None`: a temporary one.
    pub data_dir: Option<PathBuf>,
}

/// A running (or stopped) node. Dropping it stops it.
#[derive(Debug)]
pub struct PrivateRabbit {
    sbin: PathBuf,
    run_as: RunAs,
    ports: Ports,
    node: Option<Process>,
    mapper: Option<Process>,
    folder: Folder,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    amqp: u16,
    distribution: u16,
    mapper: u16,
}

impl Ports {
    fn draw() -> Result<Self, InstanceError> {
        Ok(Self { amqp: free_port()?, distribution: free_port()?, mapper: free_port()? })
    }

    fn are_free(self) -> bool {
        [self.amqp, self.distribution, self.mapper].into_iter().all(is_free)
    }
}

impl PrivateRabbit {
    /// Starts a node. It takes connections when this returns.
    ///
    /// # Errors
    /// [`InstanceError`].
    pub async fn start(options: RabbitOptions) -> Result<Self, InstanceError> {
        Self::start_on(options, Ports::draw()?).await
    }

    async fn start_on(options: RabbitOptions, ports: Ports) -> Result<Self, InstanceError> {
        let sbin = find_sbin(options.sbin.as_deref())?;
        let run_as = RunAs::unprivileged(&["rabbitmq", "nobody"])?;
        let folder = Folder::open(options.data_dir.as_deref(), "mq")?;
        run_as.check_reach(&folder.path().join("home"))?;
        let mut this = Self { sbin, run_as, ports, node: None, mapper: None, folder };
        // We hold the lock: what still runs here belongs to a run that was killed.
        this.folder.kill_marked();
        this.lay_out()?;
        for _ in 1..DRAWS {
            let Err(error) = this.start_again().await else { return Ok(this) };
            this.kill9();
            // A port may have been free when it was drawn and taken when the node came to it.
            if this.ports.are_free() {
                return Err(error);
            }
            tracing::info!("a port of a private RabbitMQ was taken: drawing others");
            this.ports = Ports::draw()?;
        }
        this.start_again().await?;
        Ok(this)
    }

    /// The URL for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.ports.amqp)
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.node.as_ref().map(Process::pid)
    }

    /// Kills it at once, as a crash would.
    pub fn kill9(&mut self) {
        for mut process in [self.node.take(), self.mapper.take()].into_iter().flatten() {
            process.kill();
        }
        // The Erlang machine starts helpers in groups of their own.
        self.folder.kill_marked();
    }

    /// Stops it in an orderly way.
    pub async fn stop(&mut self) {
        if let Some(mut node) = self.node.take() {
            node.signal(Signal::SIGTERM);
            node.ended_within(STOPPED_WITHIN).await;
        }
        self.kill9();
    }

    /// Starts it with the same data and the same URL.
    ///
    /// # Errors
    /// [`InstanceError`].
    pub async fn start_again(&mut self) -> Result<(), InstanceError> {
        self.kill9();
        let log = self.folder.path().join("rabbitmq.log");
        let mapper = self.program(epmd().as_path());
        self.mapper = Some(Process::spawn("epmd", mapper, self.folder.path(), &log)?);
        let mut node = Process::spawn("rabbitmq-server", self.server(), self.folder.path(), &log)?;
        let port = self.ports.amqp;
        wait_until("RabbitMQ to be ready", READY_WITHIN, &log, async || {
            if node.has_ended() {
                return Err(InstanceError::Failed { program: "rabbitmq-server".to_owned(), output: tail(&log) });
            }
            Ok(takes_connections(port).await)
        })
        .await?;
        self.node = Some(node);
        Ok(())
    }

    fn lay_out(&self) -> Result<(), InstanceError> {
        let path = self.folder.path();
        for name in ["home", "data", "log", "config"] {
            let folder = path.join(name);
            fs::create_dir_all(&folder).map_err(os(format!("make {}", folder.display())))?;
            self.run_as.own(&folder)?;
        }
        write(&path.join("config/enabled_plugins"), "[].\n")?;
        write(&path.join("config/rabbitmq.conf"), "log.file.level = warning\ndisk_free_limit.absolute = 50MB\n")?;
        for name in ["config/enabled_plugins", "config/rabbitmq.conf"] {
            self.run_as.own(&path.join(name))?;
        }
        Ok(())
    }

    fn server(&self) -> Command {
        let path = self.folder.path();
        let mut command = self.program(&self.sbin.join("rabbitmq-server"));
        command
            .env("RABBITMQ_NODENAME", NODE_NAME)
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.ports.amqp.to_string())
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("RABBITMQ_MNESIA_DIR", path.join("data/node"))
            .env("RABBITMQ_MNESIA_BASE", path.join("data"))
            .env("RABBITMQ_FEATURE_FLAGS_FILE", path.join("data/feature_flags"))
            .env("RABBITMQ_PLUGINS_EXPAND_DIR", path.join("data/plugins"))
            .env("RABBITMQ_LOG_BASE", path.join("log"))
            .env("RABBITMQ_PID_FILE", path.join("data/pid"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", path.join("data/generated"))
            .env("RABBITMQ_SCHEMA_DIR", path.join("data/schema"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path.join("config/enabled_plugins"))
            .env("RABBITMQ_CONFIG_FILE", path.join("config/rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", path.join("config/advanced.config"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            // Makes the script become the server instead of waiting for it: then our child is the server.
            .env("RABBITMQ_ALLOW_INPUT", "1")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                format!("{ERLANG} -kernel inet_dist_use_interface {{127,0,0,1}}"),
            );
        command
    }

    fn program(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        self.run_as.apply(&mut command);
        command
            .env("HOME", self.folder.path().join("home"))
            .env("ERL_EPMD_PORT", self.ports.mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command
    }
}

impl Drop for PrivateRabbit {
    fn drop(&mut self) {
        if let Some(node) = &mut self.node
            && !self.folder.is_temporary()
        {
            node.end_blocking(Signal::SIGTERM, STOPPED_WITHIN);
        }
        self.kill9();
    }
}

/// A node opens its port before it serves: wait for its first frame.
async fn takes_connections(port: u16) -> bool {
    let greeted = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(PROTOCOL_HEADER).await?;
        stream.read_u8().await
    };
    matches!(timeout(Duration::from_secs(2), greeted).await, Ok(Ok(1)))
}

fn write(path: &Path, text: &str) -> Result<(), InstanceError> {
    fs::write(path, text).map_err(os(format!("write {}", path.display())))
}

fn epmd() -> PathBuf {
    let found = search_path().into_iter().map(|folder| folder.join("epmd")).find(|epmd| epmd.exists());
    found.unwrap_or_else(|| PathBuf::from("/usr/bin/epmd"))
}

fn find_sbin(configured: Option<&Path>) -> Result<PathBuf, InstanceError> {
    let candidates = configured.map_or_else(installed, |configured| vec![configured.to_owned()]);
    let found = candidates.into_iter().find(|sbin| sbin.join("rabbitmq-server").exists());
    found.ok_or(InstanceError::NotInstalled {
        what: "RabbitMQ",
        package: "rabbitmq-server",
        variable: "LEKHIKA_RABBITMQ_SBIN",
    })
}

/// Debian's folders; its wrappers in `/usr/sbin` insist on a user of their own.
fn installed() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/rabbitmq/lib")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("sbin"))
        .filter(|sbin| sbin.join("rabbitmq-server").exists())
        .collect();
    found.sort();
    found.reverse();
    found.push(PathBuf::from("/opt/homebrew/opt/rabbitmq/sbin"));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::free_listener;

    #[tokio::test]
    async fn a_port_that_is_taken_meanwhile_is_drawn_again() {
        let taken = free_listener().unwrap();
        let amqp = taken.local_addr().unwrap().port();

        let rabbit = PrivateRabbit::start_on(RabbitOptions::default(), Ports { amqp, ..Ports::draw().unwrap() });

        assert!(!rabbit.await.unwrap().url().contains(&format!(":{amqp}/")));
    }
}

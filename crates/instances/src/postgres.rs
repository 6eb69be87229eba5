//! A private Postgres cluster, on a unix socket in its own folder, or on a free port of 127.0.0.1 as well.

use crate::{
    InstanceError,
    error::os,
    folder::Folder,
    ports::free_port,
    postmaster::{kill_servers_on, named_in, servers_on},
    process::{Process, run, tail, wait_until},
    user::RunAs,
};
use nix::sys::signal::Signal;
use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The superuser of the cluster.
const SUPERUSER: &str = "lekhika";
/// A cluster that was killed replays its log before it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A fast shutdown writes a checkpoint.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
/// The longest socket path the operating systems take, in bytes.
const SOCKET_PATH_MAX: usize = 103;

/// How the cluster is made and run.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// The folder of `initdb` and `postgres`; `None`: the newest that is installed (a variable `LEKHIKA_PG_BIN` is read
    /// by the caller).
    pub bin: Option<PathBuf>,
    /// Kept between starts; `None`: a temporary one.
    pub data_dir: Option<PathBuf>,
    /// Also listens on a free port of 127.0.0.1, with a password that is in the URL.
    pub tcp: bool,
    /// Does not wait for the disk. Safe against killed processes, not against a crash of the machine: for tests.
    pub fast_and_loose: bool,
    /// More settings, such as `("max_connections", "300")`.
    pub settings: Vec<(String, String)>,
}

/// A running (or stopped) cluster. Dropping it stops it.
#[derive(Debug)]
pub struct PrivatePostgres {
    bin: PathBuf,
    run_as: RunAs,
    arguments: Vec<String>,
    sockets: PathBuf,
    port: u16,
    password: Option<String>,
    process: Option<Process>,
    folder: Folder,
}

impl PrivatePostgres {
    /// Makes the cluster if there is none, and starts it. Ready when this returns.
    ///
    /// # Errors
    /// [`InstanceError`].
    pub async fn start(options: PostgresOptions) -> Result<Self, InstanceError> {
        let bin = find_bin(options.bin.as_deref())?;
        let run_as = RunAs::unprivileged(&["postgres", "nobody"])?;
        let folder = Folder::open(options.data_dir.as_deref(), "pg")?;
        run_as.check_reach(&folder.path().join("data"))?;
        let sockets = sockets(folder.path(), &run_as)?;
        let port = if options.tcp { free_port()? } else { 5432 };
        let password = options.tcp.then(|| hex::encode(rand::random::<[u8; 16]>()));
        let mut this = Self {
            arguments: arguments(&options, port, &sockets),
            bin,
            run_as,
            sockets,
            port,
            password,
            process: None,
            folder,
        };
        this.stop_leftover();
        if !this.data().join("PG_VERSION").exists() {
            this.initdb()?;
        }
        this.start_again().await?;
        this.set_password()?;
        Ok(this)
    }

    /// The URL of a database over the unix socket, for the superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let host = self.sockets.to_string_lossy().replace('/', "%2F");
        format!("postgres://{SUPERUSER}@{host}:{}/{database}", self.port)
    }

    /// The URL of a database over TCP, if it was asked for.
    #[must_use]
    pub fn tcp_url(&self, database: &str) -> Option<String> {
        let password = self.password.as_ref()?;
        Some(format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{}/{database}", self.port))
    }

    /// Its folder: what is [marked](Folder::mark) with it ends when this process was killed and its folder is
    /// [reaped](crate::reap).
    #[must_use]
    pub const fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Kills it at once, as a crash would.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Lets go of the server and its folder without stopping it, as the end of a killed process would: for tests of what
    /// comes after that.
    pub fn abandon(mut self) {
        if let Some(process) = self.process.take() {
            process.abandon();
        }
    }

    /// Stops it: sessions are ended, the data is written.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGINT);
            process.ended_within(STOPPED_WITHIN).await;
        }
    }

    /// Starts it with the same data and the same URL.
    ///
    /// # Errors
    /// [`InstanceError`].
    pub async fn start_again(&mut self) -> Result<(), InstanceError> {
        self.kill9();
        self.stop_leftover();
        let log = self.log();
        let until = tokio::time::Instant::now() + READY_WITHIN;
        loop {
            let mut process = Process::spawn("postgres", self.server(), self.folder.path(), &log)?;
            if self.ready(&mut process, &log).await? {
                self.process = Some(process);
                return Ok(());
            }
            // The sessions of a killed server still hold its shared memory for a moment.
            let held = tail(&log).contains("still in use");
            if !held || tokio::time::Instant::now() >= until {
                return Err(InstanceError::Failed { program: "postgres".to_owned(), output: tail(&log) });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for the line `ready` in the pid file; `false` when it ended instead.
    async fn ready(&self, process: &mut Process, log: &Path) -> Result<bool, InstanceError> {
        let pid_file = self.data().join("postmaster.pid");
        let pid = process.pid().to_string();
        let mut ended = false;
        wait_until("Postgres to be ready", READY_WITHIN, log, async || {
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            ended = process.has_ended();
            let mut lines = text.lines();
            let ours = lines.next() == Some(pid.as_str());
            Ok(ended || (ours && lines.nth(6).is_some_and(|line| line.trim() == "ready")))
        })
        .await?;
        Ok(!ended)
    }

    /// Made elsewhere and then given its name: a cluster that is half made must not be taken for one, also after a kill.
    fn initdb(&self) -> Result<(), InstanceError> {
        let (draft, data) = (self.folder.path().join("data.draft"), self.data());
        let _ = fs::remove_dir_all(&draft);
        fs::create_dir_all(&draft).map_err(os(format!("make {}", draft.display())))?;
        fs::set_permissions(&draft, Permissions::from_mode(0o700)).map_err(os("close the data folder to others"))?;
        self.run_as.own(&draft)?;
        let mut command = self.program("initdb");
        command.arg("-D").arg(&draft).args(["-U", SUPERUSER, "-E", "UTF8", "--locale=C", "--no-sync"]);
        command.args(["--auth-local=trust", "--auth-host=scram-sha-256"]);
        run("initdb", command)?;
        // An empty folder of this name does not hinder; one with something in it is not ours to remove.
        fs::rename(&draft, &data).map_err(os(format!("rename {} to {}", draft.display(), data.display())))
    }

    /// We hold the lock, so whoever started a server that still runs on this data is dead.
    fn stop_leftover(&self) {
        let pid_file = self.data().join("postmaster.pid");
        let running = servers_on(&self.data());
        // Where the system does not tell, `pg_ctl` has to trust the file.
        let postmaster = named_in(&pid_file).filter(|pid| running.as_ref().is_none_or(|all| all.contains(pid)));
        if postmaster.is_some() && self.stop_by_control() {
            tracing::info!("stopped the Postgres of a run that was killed");
        }
        // Starting up, or setting up a cluster: it has no pid file yet.
        self.folder.kill_marked();
        if running.is_some() {
            kill_servers_on(&self.data());
            // Now it names nobody, or somebody else, whom Postgres would take for a server that runs.
            let _ = fs::remove_file(&pid_file);
        }
    }

    fn stop_by_control(&self) -> bool {
        ["fast", "immediate"].into_iter().any(|mode| {
            let mut command = self.program("pg_ctl");
            command.arg("stop").arg("-D").arg(self.data()).args(["-m", mode, "-w", "-t", "10"]);
            run("pg_ctl", command).is_ok()
        })
    }

    /// A new password at every start, over the socket, which is open to us only.
    fn set_password(&self) -> Result<(), InstanceError> {
        let Some(password) = &self.password else { return Ok(()) };
        let mut command = self.program("psql");
        command.args(["-q", "-X", "-h"]).arg(&self.sockets).args(["-p", &self.port.to_string()]);
        command.args(["-U", SUPERUSER, "-d", "postgres", "-c"]);
        command.arg(format!("ALTER ROLE {SUPERUSER} PASSWORD '{password}'"));
        run("psql", command)
    }

    fn server(&self) -> Command {
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data()).args(&self.arguments);
        command
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        self.run_as.apply(&mut command);
        let (mark, folder) = self.folder.mark();
        // Our own working folder may be closed to the user it runs as.
        command.env(mark, folder).current_dir("/");
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("postgres.log")
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // Nobody needs temporary data, but an immediate shutdown still releases the shared memory.
        let how = if self.folder.is_temporary() { Signal::SIGQUIT } else { Signal::SIGINT };
        process.end_blocking(how, STOPPED_WITHIN);
    }
}

fn arguments(options: &PostgresOptions, port: u16, sockets: &Path) -> Vec<String> {
    let addresses = if options.tcp { "127.0.0.1" } else { "" };
    let mut settings = vec![
        ("listen_addresses".to_owned(), addresses.to_owned()),
        ("port".to_owned(), port.to_string()),
        ("unix_socket_directories".to_owned(), sockets.to_string_lossy().into_owned()),
        ("logging_collector".to_owned(), "off".to_owned()),
    ];
    if options.fast_and_loose {
        settings.extend([("fsync", "off"), ("full_page_writes", "off")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
    settings.extend(options.settings.iter().cloned());
    settings.into_iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect()
}

/// In the data folder, or, where its path is too long, in a folder for temporary files.
fn sockets(folder: &Path, run_as: &RunAs) -> Result<PathBuf, InstanceError> {
    let near = folder.join("run");
    let fits = near.as_os_str().len() + "/.s.PGSQL.65535".len() <= SOCKET_PATH_MAX;
    let sockets =
        if fits { near } else { Path::new("/tmp").join(format!("lekhika-pg-{}", uuid::Uuid::new_v4().simple())) };
    fs::create_dir_all(&sockets).map_err(os(format!("make {}", sockets.display())))?;
    fs::set_permissions(&sockets, Permissions::from_mode(0o700)).map_err(os("close the socket folder to others"))?;
    run_as.own(&sockets)?;
    Ok(sockets)
}

fn find_bin(configured: Option<&Path>) -> Result<PathBuf, InstanceError> {
    let candidates = configured.map_or_else(installed, |configured| vec![configured.to_owned()]);
    let found = candidates.into_iter().find(|bin| bin.join("initdb").exists() && bin.join("postgres").exists());
    found.ok_or(InstanceError::NotInstalled {
        what: "the server programs of Postgres",
        package: "postgresql",
        variable: "LEKHIKA_PG_BIN",
    })
}

/// Debian's folders, newest first, then those of other systems, then the path.
fn installed() -> Vec<PathBuf> {
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    debian.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let mut all: Vec<PathBuf> = debian.into_iter().map(|(_, bin)| bin).collect();
    all.push(PathBuf::from("/Applications/Postgres.app/Contents/Versions/latest/bin"));
    all.push(PathBuf::from("/opt/homebrew/opt/postgresql/bin"));
    all.extend(crate::process::search_path());
    all.retain(|bin| bin.file_name() != Some(OsStr::new("")));
    all
}

//! Child processes in groups of their own.

use crate::{InstanceError, error::os, leftovers::MARK};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Between two looks at a process.
const POLL: Duration = Duration::from_millis(10);
/// How much of a log is shown in an error, in bytes.
const TAIL: usize = 2_000;

/// A server process and its children, in a process group of their own: Ctrl-C reaches us first, then we stop it.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// Starts it with its output in the log file.
    pub(crate) fn spawn(
        name: &'static str,
        mut command: Command,
        folder: &Path,
        log: &Path,
    ) -> Result<Self, InstanceError> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.map_err(os(format!("open {}", log.display())))?;
        let errors = file.try_clone().map_err(os("share a log file"))?;
        command.env(MARK, folder).current_dir(folder).process_group(0);
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        Ok(Self { name, child: command.spawn().map_err(os(format!("start {name}")))? })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended (and was reaped).
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Lets it run on.
    pub(crate) fn abandon(self) {
        // Nothing else frees it, so nothing reaps or kills it either.
        std::mem::forget(self);
    }

    /// Sends a signal to the first process of the group only.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = as_pid(self.child.id()) {
            let _ = kill(pid, signal);
        }
    }

    /// Kills the group, and waits for the first process, which is immediate.
    pub(crate) fn kill(&mut self) {
        if let Some(pid) = as_pid(self.child.id()) {
            let _ = killpg(pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }

    /// Waits for its end; kills the group when that takes longer.
    pub(crate) async fn ended_within(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        while !self.has_ended() {
            if Instant::now() >= until {
                tracing::warn!(name = self.name, "killed a server that did not stop");
                self.kill();
                return;
            }
            sleep(POLL).await;
        }
    }
}

impl Process {
    /// As [`ended_within`](Self::ended_within), for `Drop`: blocks.
    pub(crate) fn end_blocking(&mut self, signal: Signal, limit: Duration) {
        self.signal(signal);
        let until = std::time::Instant::now() + limit;
        while !self.has_ended() && std::time::Instant::now() < until {
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.kill();
        }
    }
}

/// Polls until `ready` says yes.
pub(crate) async fn wait_until(
    what: &str,
    limit: Duration,
    log: &Path,
    mut ready: impl AsyncFnMut() -> Result<bool, InstanceError>,
) -> Result<(), InstanceError> {
    let until = Instant::now() + limit;
    while !ready().await? {
        if Instant::now() >= until {
            let (what, seconds, output) = (what.to_owned(), limit.as_secs(), tail(log));
            return Err(InstanceError::Slow { what, seconds, output });
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// Runs a short program to its end.
pub(crate) fn run(program: &str, mut command: Command) -> Result<(), InstanceError> {
    let output = command.stdin(Stdio::null()).output().map_err(os(format!("start {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let output = String::from_utf8_lossy(&text).chars().rev().take(TAIL).collect::<Vec<_>>();
    Err(InstanceError::Failed { program: program.to_owned(), output: output.into_iter().rev().collect() })
}

/// The end of a log file.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let from = text.len().saturating_sub(TAIL);
    String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
}

fn as_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().map(Pid::from_raw)
}

/// The folders in which programs are looked for.
pub(crate) fn search_path() -> Vec<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).collect()
}

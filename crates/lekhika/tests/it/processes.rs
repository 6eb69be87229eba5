//! Processes of tests: started with their folder's mark, ended with the test, however that ends.

use std::{
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill as send},
    unistd::Pid,
};
use testkit::{Folder, wait};

use crate::system::WITHIN;

/// A folder that the servers' users can reach, and that vanishes with the value.
pub fn folder(name: &str) -> Folder {
    Folder::temporary(name).unwrap()
}

pub fn lekhika() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lekhika"));
    command.stdin(Stdio::null());
    command
}

/// A process of ours that does not outlive the test, however that ends.
pub struct Running(pub Child);

impl Running {
    /// Starts it as one of the folder's processes, with its output in a file.
    pub fn start(mut command: Command, folder: &Folder, log: &Path) -> Self {
        let (mark, path) = folder.mark();
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        command.env(mark, path).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(i32::try_from(self.0.id()).unwrap(), signal);
    }

    pub async fn ended(&mut self) -> ExitStatus {
        wait::until(WITHIN, "the end of a process", async || self.0.try_wait().unwrap().ok_or("it lives")).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            let _gone = send(pid, signal);
            for _ in 0..4_000 {
                if !matches!(self.0.try_wait(), Ok(None)) {
                    return;
                }
                // Sleeps: a drop cannot wait for a child in any other way.
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

pub fn kill(pid: i32, signal: Signal) {
    send(Pid::from_raw(pid), signal).unwrap();
}

/// Whether our children can be told of a hangup: under `nohup` they ignore it.
pub fn hears_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 0
}

/// Whether a process runs: not a zombie either.
pub fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

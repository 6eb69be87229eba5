//! What still runs on the data of a cluster. A pid file is no proof: by now its number may be anybody's.

use crate::leftovers::every_process;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{fs, path::Path, thread, time::Duration};

const POLL: Duration = Duration::from_millis(10);
const LOOKS: usize = 200;

/// The processes of Postgres on `data`: a postmaster and its sessions, or the sessions of one that died. `None` where the
/// system does not tell.
pub(crate) fn servers_on(data: &Path) -> Option<Vec<Pid>> {
    fs::read_link("/proc/self/cwd").ok()?;
    let data = data.canonicalize().ok()?;
    // Every process of Postgres works in the folder of its data.
    let ours = |pid: &Pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim_end() == "postgres" && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == data)
    };
    Some(every_process().filter(ours).collect())
}

/// The first line of the pid file.
pub(crate) fn named_in(pid_file: &Path) -> Option<Pid> {
    fs::read_to_string(pid_file).ok()?.lines().next()?.trim().parse().ok().map(Pid::from_raw)
}

/// Kills what still runs on the data. Whoever started it must be known to be dead.
pub(crate) fn kill_servers_on(data: &Path) {
    for _ in 0..LOOKS {
        let found = servers_on(data).unwrap_or_default();
        if found.is_empty() {
            return;
        }
        for pid in found {
            let _ = kill(pid, Signal::SIGKILL);
        }
        thread::sleep(POLL);
    }
    tracing::warn!(data = %data.display(), "sessions of a killed Postgres do not end");
}

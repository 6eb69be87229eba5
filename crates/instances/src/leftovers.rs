//! The processes of a folder, found by a mark in their environment: also when whoever started them is dead.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path, time::Duration};

/// The variable that carries the mark: the folder a process belongs to.
pub(crate) const MARK: &str = "LEKHIKA_INSTANCE";

/// Between two looks, and how often we look.
const POLL: Duration = Duration::from_millis(10);
const LOOKS: usize = 50;

/// Which folders' processes are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Those of this folder.
    Here,
    /// Those of this folder and of every folder below it.
    Below,
}

/// Makes this process end by `signal` when its parent does, if somebody marked it as a part of a folder. A parent that
/// was killed cannot say goodbye.
pub fn end_with_parent(signal: Signal) {
    if std::env::var_os(MARK).is_none() {
        return;
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_pdeathsig(signal) {
        tracing::debug!(%error, "this process would outlive its parent");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = signal;
}

/// Kills every process of the folder and waits until they are gone. Their owner must be known to be dead, or to be us.
pub(crate) fn kill_all_in(folder: &Path, reach: Reach) {
    for _ in 0..LOOKS {
        let found = marked(folder, reach);
        if found.is_empty() {
            return;
        }
        for pid in found {
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(POLL);
    }
    tracing::warn!(folder = %folder.display(), "processes of a killed run do not end");
}

/// As [`kill_all_in`], but lets them release what the kernel would keep (Postgres: shared memory) if they do it quickly.
pub(crate) fn end_all_in(folder: &Path, reach: Reach) {
    for pid in marked(folder, reach) {
        let _ = kill(pid, Signal::SIGQUIT);
    }
    for _ in 0..LOOKS {
        if marked(folder, reach).is_empty() {
            return;
        }
        std::thread::sleep(POLL);
    }
    kill_all_in(folder, reach);
}

/// Never this process itself: it may have been started with the mark that it now gives to others.
fn marked(folder: &Path, reach: Reach) -> Vec<Pid> {
    let ours = |pid: &Pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| {
            let value = variable.strip_prefix(MARK.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
            value.is_some_and(|value| {
                let of = Path::new(OsStr::from_bytes(value));
                of == folder || (reach == Reach::Below && of.starts_with(folder))
            })
        })
    };
    every_process().filter(|pid| *pid != Pid::this()).filter(ours).collect()
}

/// All processes of the machine; none where there is no `/proc`.
pub(crate) fn every_process() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw)
}

//! The signals that ask a process to end: Ctrl-C, SIGTERM, and the hangup of its terminal.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens from the moment it is made. A signal that comes while nobody waits is not lost.
pub(crate) struct Ends {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Ends {
    pub(crate) fn listen() -> std::io::Result<Self> {
        // `nohup` asks for the opposite: to listen would undo it.
        let hangup = if hangup_is_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())?, hangup })
    }

    pub(crate) async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = hangup => {}
        }
    }
}

/// SIGHUP is signal 1: the lowest bit of the mask.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

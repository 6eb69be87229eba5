//! One process of the stack: started with its own environment and the folder's mark, asked whether it is ready, ended.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context as _;
use instances::Folder;
use nix::sys::signal::Signal;
use service::Environment;
use tokio::process::{Child, Command};

/// How long one answer of a health endpoint may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// What a process is, and the process.
pub(super) struct Member {
    pub(super) role: &'static str,
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    /// All that it is told: what the caller's environment says about Lekhika does not reach it.
    pub(super) environment: BTreeMap<&'static str, String>,
    /// Where it says how it is.
    pub(super) internal_url: String,
    child: Option<Child>,
}

impl Member {
    pub(super) fn new(role: &'static str, name: String, arguments: Vec<String>, internal_url: String) -> Self {
        Self { role, name, arguments, environment: BTreeMap::new(), internal_url, child: None }
    }

    pub(super) fn spawn(&mut self, folder: &Folder) -> anyhow::Result<()> {
        let log = folder.path().join(format!("logs/{}.log", self.name));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new(this_program()?);
        for name in Environment::from_process().names().filter(|name| name.starts_with("LEKHIKA_")) {
            command.env_remove(name);
        }
        let (mark, path) = folder.mark();
        command
            .arg0("lekhika")
            .args(&self.arguments)
            .envs(&self.environment)
            .env(mark, path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C reaches the stack first; it ends the others in order.
            .process_group(0)
            .kill_on_drop(true);
        self.child = None;
        self.child = Some(command.spawn().with_context(|| format!("`{}` cannot be started", self.name))?);
        Ok(())
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    pub(super) fn is_dead(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    /// Whether it could be sent work; why not, otherwise.
    pub(super) async fn ready(&mut self, http: &reqwest::Client) -> Result<(), String> {
        if self.is_dead() {
            return Err("it has ended".to_owned());
        }
        // The simulator waits for nothing: once it lives it is ready.
        let path = if self.role == "simulator" { "livez" } else { "readyz" };
        let request = http.get(format!("{}/{path}", self.internal_url)).timeout(ANSWER_WITHIN);
        match request.send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(response.text().await.unwrap_or_default()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) fn ask_to_end(&self) {
        if let Some(pid) = self.pid().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended by itself.
            let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    /// Whether it ended by itself; otherwise it is killed.
    pub(super) async fn ended_within(&mut self, limit: Duration) -> bool {
        let Some(child) = &mut self.child else { return true };
        if tokio::time::timeout(limit, child.wait()).await.is_ok() {
            return true;
        }
        drop(child.kill().await);
        false
    }
}

/// This very program, also when a build has put another one in its place meanwhile.
fn this_program() -> anyhow::Result<PathBuf> {
    let itself = PathBuf::from("/proc/self/exe");
    if itself.exists() { Ok(itself) } else { Ok(std::env::current_exe()?) }
}

//! Processes that a test runs itself, with what the stack told its own: to arm them, cut them off, and see how they end.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt as _,
    process::{Child, ExitStatus},
};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::Value;
use testkit::wait;

use crate::{
    processes::{kill, lekhika},
    system::{System, WITHIN},
};

pub type Environment = BTreeMap<String, String>;

const ADDRESS: &str = "LEKHIKA_INTERNAL_ADDR";

/// What a running process was told.
pub fn environment_of(pid: i32) -> Environment {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    text.split('\0').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

/// One process of the test's own. It dies with the value.
pub struct Member {
    pub name: String,
    /// Of its internal listener.
    pub address: String,
    child: Child,
}

impl System {
    /// Runs a process as `environment` says.
    fn member(&self, role: &str, name: &str, environment: Environment) -> Member {
        let log = self.data().join(format!("logs/{name}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let address = environment[ADDRESS].clone();
        let mut command = lekhika();
        command.arg(role).env_clear().envs(environment).stdout(log.try_clone().unwrap()).stderr(log);
        Member { name: name.to_owned(), address, child: command.spawn().unwrap() }
    }

    /// A status process in the place of one of the stack's, which is dead and stays so.
    pub async fn status(&self, name: &str, failpoint: Option<&str>) -> Member {
        wait::until(WITHIN, "the address of the dead one", async || std::net::TcpListener::bind(self.address(name)))
            .await;
        let mut environment = self.environments[name].clone();
        if let Some(place) = failpoint {
            environment.insert("LEKHIKA_FAILPOINT".to_owned(), place.to_owned());
        }
        self.member("status", name, environment)
    }

    /// One more executor, told what is different; it is up when this returns.
    pub async fn executor(&self, name: &str, different: &[(&str, &str)]) -> Member {
        // A gateway knows all that an executor has to know, but for the provider.
        let mut environment = self.environments["gateway-1"].clone();
        environment.insert("LEKHIKA_SIMULATOR_URL".into(), self.facts["simulatorUrl"].as_str().unwrap().into());
        environment.insert("LEKHIKA_DRAIN_GRACE_MS".into(), "5000".into());
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let own = [("LEKHIKA_EXECUTOR_NAME", name), (ADDRESS, &free.to_string())];
        for (variable, value) in own.iter().chain(different) {
            environment.insert((*variable).to_owned(), (*value).to_owned());
        }
        let member = self.member("executor", name, environment);
        wait::until(WITHIN, "the executor's lease", async || {
            let executors = self.admin(Method::GET, "/executors", &Value::Null).await;
            let listed = executors["data"].as_array().unwrap().iter().any(|executor| executor["name"] == name);
            if listed { Ok(()) } else { Err(executors) }
        })
        .await;
        member
    }

    /// The stack's processes of a role.
    pub fn names(&self, role: &str) -> Vec<String> {
        self.pids(role).into_iter().map(|(name, _)| name).collect()
    }

    /// A metric of a process of the stack, or of the one in its place; `None` while nobody answers.
    pub async fn metric(&self, name: &str, metric: &str) -> Option<f64> {
        self.metric_at(&self.environments[name][ADDRESS], metric).await
    }

    pub async fn metric_at(&self, address: &str, metric: &str) -> Option<f64> {
        let text = self.http.get(format!("http://{address}/metrics")).send().await.ok()?.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse().ok())
    }

    /// The status process that leads.
    pub async fn leader(&self) -> String {
        wait::until(WITHIN, "a leader", async || {
            for name in self.names("status") {
                if self.metric(&name, "lekhika_status_leading").await == Some(1.0) {
                    return Ok(name);
                }
            }
            Err(())
        })
        .await
    }

    /// Where a process of the stack listens.
    pub fn address(&self, name: &str) -> &str {
        &self.environments[name][ADDRESS]
    }
}

impl Member {
    pub fn signal(&self, signal: Signal) {
        kill(i32::try_from(self.child.id()).unwrap(), signal);
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub async fn end(&mut self) -> ExitStatus {
        wait::until(WITHIN, "the end of a process", async || self.ended().ok_or(())).await
    }

    /// Whether it ended as it does at a failpoint.
    pub fn died_by_itself(status: ExitStatus) -> bool {
        status.signal() == Some(Signal::SIGABRT as i32)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        drop(self.child.wait());
    }
}

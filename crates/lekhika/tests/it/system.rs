//! The distributed layout, as `lekhika stack` starts it, and what a client and an operator do with it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use testkit::{Folder, wait};

use crate::{
    members::{self, Environment},
    processes::{Running, folder},
};

pub const WITHIN: Duration = Duration::from_secs(60);

/// A platform in a folder that is removed with it. What a killed test leaves is ended by the next `scripts/test`.
pub struct System {
    pub facts: Value,
    /// What each process of ours was told, by its name.
    pub environments: BTreeMap<String, Environment>,
    pub http: reqwest::Client,
    program: PathBuf,
    running: Running,
    folder: Folder,
}

impl System {
    pub async fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[]).await
    }

    /// With these variables of whoever starts it.
    pub async fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_program(Path::new(env!("CARGO_BIN_EXE_lekhika")), folder("e2e"), arguments, variables).await
    }

    /// With a copy of the program, or with variables that whoever starts it has set.
    pub async fn start_program(
        program: &Path,
        folder: Folder,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let running = Self::spawn(program, &folder, arguments, environment);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let environments = BTreeMap::new();
        let mut this = Self { facts: Value::Null, environments, http, program: program.to_owned(), running, folder };
        this.read_facts().await;
        this
    }

    fn spawn(program: &Path, folder: &Folder, arguments: &[&str], environment: &[(&str, &str)]) -> Running {
        let mut command = Command::new(program);
        command.arg("stack").arg("--data-dir").arg(folder.path().join("stack")).args(arguments);
        command.envs(environment.iter().copied());
        Running::start(command, folder, &folder.path().join("stack.log"))
    }

    async fn read_facts(&mut self) {
        self.facts = wait::until(WITHIN, "stack.json", async || {
            if let Ok(Some(status)) = self.running.0.try_wait() {
                panic!("the stack ended: {status}");
            }
            let facts = self.read()?;
            // That of a killed start is there until the new one has the folder.
            if facts["apiKey"] == self.facts["apiKey"] {
                Err("the one of the last start".to_owned())
            } else {
                Ok(facts)
            }
        })
        .await;
        let ours = ["status", "gateway", "executor"].iter().flat_map(|role| self.pids(role));
        self.environments = ours.map(|(name, pid)| (name, members::environment_of(pid))).collect();
    }

    /// Kills the stack's own process at once.
    pub async fn kill9(&mut self) {
        self.running.signal(nix::sys::signal::Signal::SIGKILL);
        self.running.ended().await;
    }

    /// Asks the stack to end, and waits until it has.
    pub async fn end(&mut self, signal: nix::sys::signal::Signal) -> ExitStatus {
        self.running.signal(signal);
        self.running.ended().await
    }

    /// The next start on the same folder.
    pub async fn start_again(&mut self, arguments: &[&str]) {
        self.running = Self::spawn(&self.program, &self.folder, arguments, &[]);
        self.read_facts().await;
    }

    /// Where the stack keeps everything.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("stack")
    }

    /// What the stack said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stack.log")).unwrap_or_default()
    }

    fn read(&self) -> Result<Value, String> {
        let text = std::fs::read_to_string(self.data().join("stack.json")).map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// The processes as they are now: what died has another pid after its restart.
    pub fn pids(&self, role: &str) -> Vec<(String, i32)> {
        let facts = self.read().unwrap();
        facts["processes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|process| process["role"] == role)
            .filter_map(|process| {
                // One that could not be started again yet has none.
                let pid = i32::try_from(process["pid"].as_i64()?).unwrap();
                Some((process["name"].as_str().unwrap().to_owned(), pid))
            })
            .collect()
    }

    /// The process that restarts what dies.
    pub fn supervisor(&self) -> i32 {
        i32::try_from(self.running.0.id()).unwrap()
    }

    pub fn url(&self) -> &str {
        self.gateway(0)
    }

    /// The base URL of a gateway; any number will do.
    pub fn gateway(&self, number: usize) -> &str {
        let urls = self.facts["publicUrls"].as_array().unwrap();
        urls[number % urls.len()].as_str().unwrap()
    }

    pub fn key(&self) -> &str {
        self.facts["apiKey"].as_str().unwrap()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_at(0, method, path)
    }

    pub fn request_at(&self, gateway: usize, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.gateway(gateway))).bearer_auth(self.key())
    }

    pub async fn get(&self, path: &str) -> Value {
        let response = self.request(Method::GET, path).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.request(Method::POST, path).json(body).send().await.unwrap()
    }

    pub async fn admin(&self, method: Method, path: &str, body: &Value) -> Value {
        let url = format!("{}/admin/v1{path}", self.facts["adminUrl"].as_str().unwrap());
        let token = self.facts["adminToken"].as_str().unwrap();
        let response = self.http.request(method, url).bearer_auth(token).json(body).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Deploys an engine of consecutive steps, each with its own model, and assigns it to the demo user.
    pub async fn deploy(&self, name: &str, models: &[&str]) {
        let mut nodes = vec![json!({"id": "form", "type": "input", "fields": [
            {"name": "topic", "label": "Topic", "type": "text", "required": true}
        ]})];
        let (mut edges, mut last) = (Vec::new(), "form".to_owned());
        for (at, model) in models.iter().enumerate() {
            let id = format!("step{}", at + 1);
            nodes.push(json!({"id": id, "type": "generate", "model": model,
                "prompt": format!("Step {}: write about {{{{ input.topic }}}} in about 30 words.", at + 1)}));
            edges.push(json!({"from": last, "to": id}));
            last = id;
        }
        nodes.push(json!({"id": "out", "type": "output", "document": {"title": "{{ input.topic }}"},
            "sections": [{"node": last}], "formats": ["md", "txt"]}));
        edges.push(json!({"from": last, "to": "out"}));
        self.deploy_nodes(name, &nodes, &edges).await;
    }

    /// Deploys an engine and assigns it to the demo user.
    pub async fn deploy_nodes(&self, name: &str, nodes: &[Value], edges: &[Value]) {
        let flow = json!({"schemaVersion": 1, "name": name, "title": name, "nodes": nodes, "edges": edges});
        let deployed = self.admin(Method::POST, "/engines", &json!({"flow": flow})).await;
        let user = self.get("/v1/me").await["userId"].clone();
        let assignment = json!({"engineId": deployed["engineId"], "to": {"user": user}});
        self.admin(Method::POST, "/assignments", &assignment).await;
    }

    pub async fn submit(&self, engine: &str) -> String {
        let response = self.post(&format!("/v1/engines/{engine}/execute"), &json!({"input": {"topic": "bees"}})).await;
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        assert_eq!(status, 202, "{body:#}");
        body["executionId"].as_str().unwrap().to_owned()
    }

    pub async fn execution(&self, id: &str) -> Value {
        self.get(&format!("/v1/executions/{id}")).await
    }

    /// Waits for the end of an accepted execution and returns it. At no time does anybody deny that it exists.
    pub async fn ended(&self, id: &str) -> Value {
        wait::until(WITHIN, "the end of an execution", async || {
            let response = self.request(Method::GET, &format!("/v1/executions/{id}")).send().await;
            let Ok(response) = response else { return Err("unreachable".to_owned()) };
            assert_ne!(response.status(), 404, "{id} was accepted");
            let Ok(body) = response.json::<Value>().await else { return Err("unreadable".to_owned()) };
            match body["status"].as_str() {
                Some("completed" | "failed" | "cancelled" | "expired") if body["code"].is_null() => Ok(body),
                _ => Err(body["status"].to_string()),
            }
        })
        .await
    }

    pub async fn simulator(&self, method: Method, path: &str) -> Value {
        let url = format!("{}{path}", self.facts["simulatorUrl"].as_str().unwrap());
        self.http.request(method, url).send().await.unwrap().json().await.unwrap()
    }

    /// How often the simulator was asked for each unit of an execution.
    pub async fn calls(&self, id: &str) -> Value {
        self.times(id).await["byExecution"][id].clone()
    }

    /// What the simulator counted of an execution, with `arrivedAt` and `closedAt` of its calls.
    pub async fn times(&self, id: &str) -> Value {
        self.simulator(Method::GET, &format!("/stats?execution={id}")).await
    }

    /// Waits until so many calls hold at a gate.
    pub async fn held(&self, gate: &str, count: u64) {
        wait::until(WITHIN, "calls at the gate", async || {
            let seen = self.simulator(Method::GET, &format!("/gates/{gate}")).await;
            if seen["waiting"].as_u64() == Some(count) { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    pub async fn open(&self, gate: &str) {
        self.simulator(Method::POST, &format!("/gates/{gate}/open")).await;
    }

    /// The invariant query finds nothing, at the latest after leases and waits had their time, and not because a leader had
    /// to repair its memory.
    pub async fn all_is_well(&self) {
        wait::until(WITHIN, "an empty invariant query", async || {
            let url = format!("{}/admin/v1/invariants", self.facts["adminUrl"].as_str().unwrap());
            let token = self.facts["adminToken"].as_str().unwrap();
            let answer = self.http.get(url).bearer_auth(token).send().await.map_err(|error| error.to_string())?;
            let body: Value = answer.json().await.map_err(|error| error.to_string())?;
            match body["violations"].as_array() {
                Some(violations) if violations.is_empty() => Ok(()),
                _ => Err(body.to_string()),
            }
        })
        .await;
        for name in self.names("status") {
            let repairs = self.metric(&name, "lekhika_index_repairs_total").await;
            assert!(repairs.is_none_or(|repairs| repairs == 0.0), "{name} repaired its queue");
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("{}", self.said());
        for log in std::fs::read_dir(self.data().join("logs")).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(log.path()).unwrap_or_default();
            let noted: Vec<&str> = text.lines().filter(|line| !line.contains("\"INFO\"")).collect();
            let tail = noted.len().saturating_sub(15);
            eprintln!("== {}\n{}", log.path().display(), noted[tail..].join("\n"));
        }
    }
}

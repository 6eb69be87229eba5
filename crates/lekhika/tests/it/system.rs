//! The distributed layout, as `lekhika stack` starts it, and what a client and an operator do with it.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use futures::StreamExt as _;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use testkit::{Folder, wait};

use crate::processes::{Running, folder};

pub const WITHIN: Duration = Duration::from_secs(60);

/// A platform in a folder that is removed with it. What a killed test leaves is ended by the next `scripts/test`.
pub struct System {
    pub facts: Value,
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
        let http = reqwest::Client::builder().build().unwrap();
        let mut this = Self { facts: Value::Null, http, program: program.to_owned(), running, folder };
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

    pub fn url(&self) -> &str {
        self.facts["publicUrls"][0].as_str().unwrap()
    }

    pub fn key(&self) -> &str {
        self.facts["apiKey"].as_str().unwrap()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url())).bearer_auth(self.key())
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

    /// Waits for the end and returns it.
    pub async fn ended(&self, id: &str) -> Value {
        wait::until(WITHIN, "the end of an execution", async || {
            let response = self.request(Method::GET, &format!("/v1/executions/{id}")).send().await;
            let Ok(response) = response else { return Err("unreachable".to_owned()) };
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
        self.simulator(Method::GET, &format!("/stats?execution={id}")).await["byExecution"][id].clone()
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

    /// The executor that runs something.
    pub async fn busy_executor(&self) -> (String, i32) {
        let executors = self.admin(Method::GET, "/executors", &Value::Null).await;
        let all = executors["data"].as_array().unwrap();
        let busy = all.iter().find(|executor| executor["running"] == 1).expect("one executor is busy");
        let name = busy["name"].as_str().unwrap();
        self.pids("executor").into_iter().find(|(known, _)| known == name).unwrap()
    }

    /// The invariant query finds nothing, at the latest after leases and waits had their time.
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
    }

    /// All events of a stream after an id, to its end.
    pub async fn stream(&self, id: &str, after: i64) -> Vec<Seen> {
        let mut seen: Vec<Seen> = Vec::new();
        let mut after = after;
        // A gateway or the leader may be gone for a moment: come back with the last id, as EventSource does.
        let deadline = tokio::time::Instant::now() + WITHIN;
        while tokio::time::Instant::now() < deadline {
            let request = self.request(Method::GET, &format!("/v1/executions/{id}/events"));
            let request = request.header("accept", "text/event-stream").header("last-event-id", after.to_string());
            if let Ok(response) = request.send().await {
                if response.status() == 204 {
                    return seen;
                }
                read(response, &mut seen).await;
                after = seen.last().map_or(after, |event| event.sequence);
                if seen.last().is_some_and(|event| domain::event::is_terminal_name(&event.name)) {
                    return seen;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the stream of {id} does not end: {:?}", seen.last());
    }
}

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub sequence: i64,
    pub name: String,
    pub data: Value,
}

async fn read(response: Response, seen: &mut Vec<Seen>) {
    let mut parser = providers::sse::SseParser::default();
    let mut stream = response.bytes_stream();
    while let Some(Ok(bytes)) = stream.next().await {
        for event in parser.push(&bytes).unwrap() {
            let data: Value = serde_json::from_str(&event.data).unwrap();
            if let Some(sequence) = data["sequence"].as_i64() {
                seen.push(Seen { sequence, name: event.event.unwrap_or_default(), data });
            }
        }
    }
}

/// The text of each unit, as a client that applies resets ends with it.
pub fn texts(events: &[Seen]) -> std::collections::BTreeMap<String, String> {
    let mut texts = std::collections::BTreeMap::new();
    for event in events {
        let unit = format!("{}/{}", event.data["node"].as_str().unwrap_or_default(), event.data["unit"]);
        let offset = usize::try_from(event.data["offset"].as_u64().unwrap_or_default()).unwrap();
        match event.name.as_str() {
            "output.delta" => {
                let text: &mut String = texts.entry(unit).or_default();
                assert_eq!(text.chars().count(), offset, "a delta lies at the end of the text");
                text.push_str(event.data["text"].as_str().unwrap());
            }
            "output.reset" => {
                let text = texts.entry(unit).or_default();
                *text = text.chars().take(offset).collect();
            }
            _ => {}
        }
    }
    texts
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

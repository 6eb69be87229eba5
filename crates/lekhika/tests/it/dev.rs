//! The embedded form: the same code in one process.

use std::{path::PathBuf, process::Command, time::Duration};

use nix::sys::signal::Signal;
use providers::simulator::{RunningSimulator, SimulatorConfig};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use testkit::{Folder, wait};
use tokio_util::sync::CancellationToken;

use crate::{
    processes::{Running, folder, lekhika},
    system::WITHIN,
};

/// One data folder, and `lekhika dev` on it.
struct Dev {
    folder: Folder,
    environment: Vec<(&'static str, String)>,
    http: reqwest::Client,
}

/// One start of it.
struct Start {
    running: Running,
    log: PathBuf,
}

impl Dev {
    fn new() -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        Self { folder: folder("dev"), environment: Vec::new(), http }
    }

    /// With a provider of its own, and the model that writes the sample.
    fn with_provider(simulator: &RunningSimulator, model: &str) -> Self {
        let environment = vec![
            ("LEKHIKA_OPENAI_API_KEY", "sk-test".to_owned()),
            ("LEKHIKA_OPENAI_BASE_URL", simulator.url()),
            ("LEKHIKA_OPENAI_MODEL", model.to_owned()),
        ];
        Self { environment, ..Self::new() }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("dev")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = lekhika();
        command.arg("dev").arg("--data-dir").arg(self.data());
        command.args(["--public-port", "0", "--admin-port", "0"]).args(arguments);
        command.env_remove("LEKHIKA_OPENAI_API_KEY").envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn start(&self, arguments: &[&str]) -> Start {
        let log = self.folder.path().join(format!("{}.log", uuid::Uuid::now_v7().simple()));
        Start { running: Running::start(self.command(arguments), &self.folder, &log), log }
    }

    /// What `dev.json` says of this start.
    async fn facts(&self, start: &mut Start) -> Value {
        wait::until(WITHIN, "dev.json", async || {
            if let Ok(Some(status)) = start.running.0.try_wait() {
                panic!("dev ended ({status}): {}", start.said());
            }
            let text = std::fs::read_to_string(self.data().join("dev.json")).map_err(|error| error.to_string())?;
            let facts: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            if facts["pid"] == start.running.0.id() { Ok(facts) } else { Err("the one of another start".to_owned()) }
        })
        .await
    }

    async fn ask(&self, facts: &Value, method: Method, path: &str, body: &Value) -> Response {
        let url = format!("{}{path}", facts["publicUrl"].as_str().unwrap());
        self.http.request(method, url).bearer_auth(facts["apiKey"].as_str().unwrap()).json(body).send().await.unwrap()
    }

    /// All executions of the demo user, the newest first.
    async fn executions(&self, facts: &Value) -> Value {
        let list = self.ask(facts, Method::GET, "/v1/executions", &Value::Null).await;
        list.json::<Value>().await.unwrap()["data"].clone()
    }

    async fn completed(&self, facts: &Value) -> Value {
        wait::until(WITHIN, "a completed execution", async || {
            let all = self.executions(facts).await;
            if all[0]["status"] == "completed" { Ok(all) } else { Err(all[0]["status"].to_string()) }
        })
        .await
    }
}

impl Start {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn says(&self, text: &str) {
        wait::until(WITHIN, text, async || if self.said().contains(text) { Ok(()) } else { Err(self.said()) }).await;
    }

    /// Whether it ended well.
    async fn end(&mut self, signal: Signal) -> bool {
        self.running.signal(signal);
        self.running.ended().await.success()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_runs_and_every_later_start_keeps_its_data() {
    let dev = Dev::new();

    let once = dev.command(&["--once"]).output().unwrap();
    let text = String::from_utf8(once.stdout).unwrap();
    assert!(once.status.success(), "{text}\n{}", String::from_utf8_lossy(&once.stderr));
    assert!(text.contains("written by a simulator"), "{text}");
    let files: Vec<&str> = text.lines().filter(|line| line.contains("/out/exec_")).collect();
    assert!(files.len() >= 4 && files.iter().all(|file| std::path::Path::new(file.trim()).is_file()), "{text}");
    assert!(!dev.data().join("dev.json").exists());

    let mut first = dev.start(&["--no-sample", "--executors", "2"]);
    let facts = dev.facts(&mut first).await;
    first.says("Ctrl-C stops everything").await;
    let said = first.said();
    assert_eq!(said.matches(facts["apiKey"].as_str().unwrap()).count(), 1, "the key is shown once: {said}");
    facts_are_complete(&dev, &facts).await;
    let second = dev.command(&["--no-sample"]).output().unwrap();
    assert!(!second.status.success(), "a second process on the same data is refused");
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process is using it"));
    assert_eq!(dev.facts(&mut first).await, facts, "and changes nothing");
    assert_eq!(dev.ask(&facts, Method::GET, "/v1/me", &Value::Null).await.status(), 200);

    // A start that is killed leaves its database behind; the next one takes it over.
    assert!(!first.end(Signal::SIGKILL).await);
    let mut third = dev.start(&["--no-sample"]);
    let now = dev.facts(&mut third).await;
    let all = dev.completed(&now).await;
    let [_, sample] = all.as_array().unwrap().as_slice() else { panic!("{all:#}") };
    let at = |field: &str| chrono::DateTime::parse_from_rfc3339(sample[field].as_str().unwrap()).unwrap();
    // Only the lower bound: a busy machine may take longer than the fifteen seconds it takes at most by itself.
    let lasted = (at("completedAt") - at("createdAt")).num_milliseconds();
    assert!(lasted >= 5_000, "long enough to be watched: {lasted} ms");
    let old = json!({"publicUrl": now["publicUrl"], "apiKey": facts["apiKey"]});
    let refused = dev.ask(&old, Method::GET, "/v1/me", &Value::Null).await;
    assert_eq!(refused.status(), 401, "each start ends the key of the last one");
    assert!(third.end(Signal::SIGINT).await);
    assert!(!dev.data().join("dev.json").exists());
}

async fn facts_are_complete(dev: &Dev, facts: &Value) {
    for name in ["publicUrl", "adminUrl", "simulatorUrl"] {
        assert!(facts[name].as_str().unwrap().starts_with("http://127.0.0.1:"), "{facts}");
    }
    assert!(facts["engineId"].as_str().unwrap().starts_with("eng_"), "{facts}");
    let url = format!("{}/admin/v1/executors", facts["adminUrl"].as_str().unwrap());
    wait::until(WITHIN, "two executors", async || {
        let request = dev.http.get(&url).bearer_auth(facts["adminToken"].as_str().unwrap());
        let executors: Value = request.send().await.unwrap().json().await.unwrap();
        let all = executors["data"].as_array().unwrap();
        if ["dev-1", "dev-2"].iter().all(|name| all.iter().any(|executor| executor["name"] == *name)) {
            Ok(())
        } else {
            Err(executors)
        }
    })
    .await;
    // The key is bound to no engine.
    let body = json!({"input": {"text": "Mosses have no roots. They drink with their leaves."}});
    let accepted = dev.ask(facts, Method::POST, "/v1/engines/summarise/execute", &body).await;
    let status = accepted.status();
    assert_eq!(status, 202, "{}", accepted.text().await.unwrap());
    dev.completed(facts).await;
}

async fn simulator() -> (RunningSimulator, CancellationToken) {
    let shutdown = CancellationToken::new();
    (providers::simulator::run(SimulatorConfig::default(), shutdown.clone()).await.unwrap(), shutdown)
}

async fn held(simulator: &RunningSimulator, open: u64) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    wait::until(WITHIN, "calls at the gate", async || {
        let gate: Value =
            http.get(format!("{}/gates/sample", simulator.url())).send().await.unwrap().json().await.unwrap();
        if gate["waiting"] == open { Ok(()) } else { Err(gate) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_that_is_killed_and_interrupted_in_the_middle_goes_on_at_the_next_start() {
    let (simulator, _shutdown) = simulator().await;
    let dev = Dev::with_provider(&simulator, "gate-sample");
    let mut killed = dev.start(&[]);
    held(&simulator, 1).await;
    killed.end(Signal::SIGKILL).await;
    held(&simulator, 0).await;

    let mut interrupted = dev.start(&["--no-sample"]);
    held(&simulator, 1).await;
    assert!(interrupted.end(Signal::SIGINT).await, "{}", interrupted.said());
    held(&simulator, 0).await;

    let mut last = dev.start(&["--no-sample"]);
    held(&simulator, 1).await;
    let open = format!("{}/gates/sample/open", simulator.url());
    dev.http.post(open).send().await.unwrap();
    let facts = dev.facts(&mut last).await;
    let all = dev.completed(&facts).await;
    assert_eq!(all.as_array().unwrap().len(), 1);
    assert!(!last.said().contains("simulator"), "a configured provider is not announced as a simulator");
    assert!(last.end(Signal::SIGTERM).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_once_is_a_failure_and_a_second_signal_waits_for_nothing() {
    let (simulator, _shutdown) = simulator().await;
    let dev = Dev::with_provider(&simulator, "gate-sample");
    let mut once = dev.start(&["--once"]);
    held(&simulator, 1).await;

    once.running.signal(Signal::SIGINT);
    // The first thing that a stop does.
    let file = dev.data().join("dev.json");
    wait::until_true(WITHIN, "the stop to begin", async || !file.exists()).await;
    assert!(!once.end(Signal::SIGINT).await);

    assert!(once.said().contains("stopping at once"), "{}", once.said());
    assert!(once.said().contains("before the sample was done"), "{}", once.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_that_fails_is_told_and_the_platform_stays_up() {
    let (simulator, _shutdown) = simulator().await;
    let dev = Dev::with_provider(&simulator, "fault-F21");

    let once = dev.command(&["--once"]).output().unwrap();
    let mut staying = dev.start(&[]);
    staying.says("Ctrl-C stops everything").await;

    assert!(!once.status.success());
    assert!(staying.said().contains("the sample did not complete"), "{}", staying.said());
    let facts = dev.facts(&mut staying).await;
    assert_eq!(dev.ask(&facts, Method::GET, "/v1/me", &Value::Null).await.status(), 200);
    assert_eq!(dev.executions(&facts).await[0]["status"], "failed");
    assert!(staying.end(Signal::SIGTERM).await);
}

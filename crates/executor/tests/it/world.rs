//! One fake status, one simulator, one broker, and executors on them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use broker::{Broker, InProcessBroker, Message, Queue};
use domain::ExecutionId;
use executor::{ExecutorConfig, Handle, ProviderSettings};
use protocol::{Envelope, control::Control, dispatch::Dispatch, report::Finish};
use providers::{
    openai::Dialect,
    simulator::{self, SimulatorConfig},
};
use secrecy::SecretString;
use serde_json::{Value, json};
use service::{ObjectStoreConfig, Shutdown, SystemClock};
use testkit::wait;
use tokio_util::sync::CancellationToken;

use crate::{ledger::Row, status::FakeStatus};

/// Far more than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) status: FakeStatus,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) simulator: String,
    status_url: String,
    http: reqwest::Client,
    _files: tempfile::TempDir,
    pub(crate) files: std::path::PathBuf,
    end: CancellationToken,
}

/// One executor.
pub(crate) struct Worker {
    pub(crate) handle: Handle,
    pub(crate) shutdown: Shutdown,
}

impl Worker {
    /// Waits until the executor says itself that its lease has run out. It needs an internal listener.
    pub(crate) async fn until_its_lease_is_over(&self) {
        let url = format!("http://{}/readyz", self.handle.internal_address.unwrap());
        let http =
            service::http_client::build(&service::http_client::ClientConfig::reaching("http://127.0.0.1")).unwrap();
        wait::until(DEADLINE, "the end of the lease", async || {
            let text = http.get(&url).send().await.unwrap().text().await.unwrap();
            if text.contains("no lease from the leader") { Ok(()) } else { Err(text) }
        })
        .await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        let end = CancellationToken::new();
        let simulator = simulator::run(SimulatorConfig::default(), end.clone()).await.unwrap();
        let status = FakeStatus::default();
        let status_url = status.serve();
        let folder = tempfile::tempdir().unwrap();
        Self {
            status,
            broker: Arc::new(InProcessBroker::new()),
            simulator: simulator.url(),
            status_url,
            http: service::http_client::build(&service::http_client::ClientConfig::reaching("http://127.0.0.1"))
                .unwrap(),
            files: folder.path().to_owned(),
            _files: folder,
            end,
        }
    }

    pub(crate) fn worker(&self) -> Worker {
        self.worker_with(|_| {})
    }

    pub(crate) fn worker_with(&self, change: impl FnOnce(&mut ExecutorConfig)) -> Worker {
        let provider = |base_url: &str| ProviderSettings {
            base_url: base_url.to_owned(),
            api_key: SecretString::default(),
            dialect: Dialect::default(),
        };
        let mut config = ExecutorConfig {
            internal_address: None,
            status_urls: vec![self.status_url.clone()],
            service_secret: "0123456789abcdef0123456789abcdef".into(),
            slots: 16,
            name: "test".to_owned(),
            drain_grace: Duration::from_secs(60),
            object_store: ObjectStoreConfig::at(format!("file://{}", self.files.display())),
            providers: BTreeMap::from([
                ("sim".to_owned(), provider(&self.simulator)),
                ("scripted".to_owned(), provider(&self.status_url)),
            ]),
            call_timeout: Duration::from_secs(60),
            store_patience: Duration::from_secs(60),
        };
        change(&mut config);
        let shutdown = Shutdown::new();
        let handle = executor::run(config, Arc::clone(&self.broker), Arc::new(SystemClock), shutdown.clone()).unwrap();
        Worker { handle, shutdown }
    }

    /// Puts an execution into the ledger and offers it.
    pub(crate) fn submit(&self, flow: &Value, input: &Value) -> ExecutionId {
        let id = self.status.ledger(|ledger| ledger.submit(flow, input, None));
        self.offer(&[id]);
        id
    }

    pub(crate) fn offer(&self, ids: &[ExecutionId]) {
        let bytes = Envelope::new(Dispatch { term: 1, executions: ids.to_vec() }, None).to_bytes().unwrap();
        self.broker.hint(Queue::Dispatch, Message::transient(bytes));
    }

    /// Orders a stop over the control topic, as the leader does.
    pub(crate) fn stop(&self, id: ExecutionId) {
        let epoch = self.status.ledger(|ledger| {
            let row = ledger.rows.get_mut(&id).unwrap();
            row.state = crate::ledger::State::Cancelling;
            row.epoch
        });
        let order = Envelope::new(Control::Stop { executions: vec![(id, epoch)] }, None).to_bytes().unwrap();
        self.broker.announce(protocol::control::TOPIC, order.into());
    }

    pub(crate) fn row<R>(&self, id: ExecutionId, look: impl FnOnce(&Row) -> R) -> R {
        self.status.ledger(|ledger| look(&ledger.rows[&id]))
    }

    pub(crate) async fn until(&self, what: &str, id: ExecutionId, is: impl Fn(&Row) -> bool) {
        wait::until(DEADLINE, what, async || {
            self.row(id, |row| {
                if is(row) { Ok(()) } else { Err(format!("{:?} {:?} {:?}", row.state, row.completed, row.names())) }
            })
        })
        .await;
    }

    /// Waits for the finish.
    pub(crate) async fn finish(&self, id: ExecutionId) -> Finish {
        self.until("the finish", id, |row| row.finish.is_some()).await;
        self.row(id, |row| row.finish.clone().unwrap())
    }

    pub(crate) async fn stats(&self) -> Value {
        self.get("/stats").await
    }

    /// Asks the simulator.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let text = self.http.get(format!("{}{path}", self.simulator)).send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// How often a unit of an execution was asked.
    pub(crate) async fn calls(&self, id: ExecutionId, unit: &str) -> u64 {
        self.stats().await["byExecution"][id.to_string()][unit].as_u64().unwrap_or(0)
    }

    pub(crate) async fn open_gate(&self, name: &str) {
        self.http.post(format!("{}/gates/{name}/open", self.simulator)).send().await.unwrap();
    }

    /// Waits until so many calls hold at a gate.
    pub(crate) async fn at_gate(&self, name: &str, calls: u64) {
        wait::until(DEADLINE, "calls at the gate", async || {
            let url = format!("{}/gates/{name}", self.simulator);
            let gate: Value =
                serde_json::from_str(&self.http.get(url).send().await.unwrap().text().await.unwrap()).unwrap();
            if gate["waiting"] == json!(calls) { Ok(()) } else { Err(gate) }
        })
        .await;
    }
}

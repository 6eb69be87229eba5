//! A gateway, a status service and an in-process broker; the tests are the clients.

use std::{sync::Arc, time::Duration};

use broker::InProcessBroker;
use chrono::TimeDelta;
use reqwest::{Method, RequestBuilder, Response};
use secrecy::SecretString;
use serde_json::{Value, json};
use service::{Clock as _, Environment, Shutdown, SystemClock};
use testkit::{TestDatabase, wait};

use crate::proxy::Proxy;

pub const WITHIN: Duration = Duration::from_secs(10);
const ADMIN: &str = "an admin secret of more than thirty-two bytes";

pub struct System {
    pub url: String,
    pub admin_url: String,
    pub admin_token: String,
    pub key: String,
    pub user: String,
    pub engine: String,
    pub http: reqwest::Client,
    pub ledger: Shutdown,
    pub edge: Shutdown,
    /// Between the gateway and status.
    pub proxy: Proxy,
    pub files: tempfile::TempDir,
    database: TestDatabase,
}

pub const FLOW: &str = r"
schemaVersion: 1
name: letter
title: A letter
nodes:
  - id: form
    type: input
    fields:
      - { name: topic, label: Topic, type: text, required: true, maxLength: 100 }
      - { name: words, label: Words, type: number, min: 10, max: 500 }
  - id: write
    type: generate
    model: sim/instant
    prompt: 'Write about {{ input.topic }}.'
  - id: out
    type: output
    document:
      title: '{{ input.topic }}'
    sections:
      - { node: write }
    formats: [md]
edges:
  - { from: form, to: write }
  - { from: write, to: out }
";

impl System {
    pub async fn start() -> Self {
        Self::start_at(None).await
    }

    /// With another public URL than its address.
    pub async fn start_at(public_url: Option<&str>) -> Self {
        let database =
            TestDatabase::create(&storage::migrations_key(), async |url| Ok(storage::migrate(&url).await?)).await;
        let files = tempfile::tempdir().unwrap();
        let broker = Arc::new(InProcessBroker::new());
        let secret = "a service secret of more than thirty-two bytes";
        let (ledger, edge) = (Shutdown::new(), Shutdown::new());
        let config = status::StatusConfig::from_environment(&Environment::of([
            ("LEKHIKA_INTERNAL_ADDR", "127.0.0.1:0"),
            ("LEKHIKA_DATABASE_URL", database.url().as_str()),
            ("LEKHIKA_SERVICE_SECRET", secret),
        ]));
        let status = status::run(config.unwrap(), broker.clone(), Arc::new(SystemClock), ledger.clone()).unwrap();
        let proxy = Proxy::start(status.address).await;
        let store = format!("file://{}", files.path().display());
        let config = gateway::GatewayConfig::from_environment(&Environment::of([
            ("LEKHIKA_PUBLIC_ADDR", "127.0.0.1:0"),
            ("LEKHIKA_ADMIN_ADDR", "127.0.0.1:0"),
            ("LEKHIKA_INTERNAL_ADDR", "127.0.0.1:0"),
            ("LEKHIKA_STATUS_URLS", proxy.url.as_str()),
            ("LEKHIKA_SERVICE_SECRET", secret),
            ("LEKHIKA_KEY_PEPPER", "a key pepper of more than thirty-two bytes"),
            ("LEKHIKA_LINK_SECRET", "a link secret of more than thirty-two bytes"),
            ("LEKHIKA_ADMIN_SECRET", ADMIN),
            ("LEKHIKA_OBJECT_STORE", store.as_str()),
        ]));
        let mut config = config.unwrap();
        config.public_url = public_url.map(str::to_owned);
        let gateway = gateway::run(config, broker, Arc::new(SystemClock), edge.clone()).unwrap();
        let token = admin::issue_token(
            &SecretString::from(ADMIN),
            "test",
            admin::Role::Owner,
            SystemClock.now(),
            TimeDelta::hours(1),
        );
        let mut this = Self {
            url: format!("http://{}", gateway.public_address),
            admin_url: format!("http://{}/admin/v1", gateway.admin_address.unwrap()),
            admin_token: token.unwrap(),
            key: String::new(),
            user: String::new(),
            engine: String::new(),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            ledger,
            edge,
            proxy,
            files,
            database,
        };
        this.bootstrap().await;
        this
    }

    async fn bootstrap(&mut self) {
        wait::until(WITHIN, "a leader", async || {
            let level = json!({"name": "test", "weight": 1.0, "maxPriority": "high"});
            let response = self.admin(Method::POST, "/levels").json(&level).send().await.unwrap();
            if response.status().is_success() { Ok(()) } else { Err(response.status()) }
        })
        .await;
        (self.user, self.key) = self.user("ada").await;
        let flow = domain::flow::read(FLOW).unwrap();
        let deployed = self.do_admin("/engines", json!({"flow": flow})).await;
        self.engine = deployed["engineId"].as_str().unwrap().to_owned();
        self.do_admin("/assignments", json!({"engineId": self.engine, "to": {"user": self.user}})).await;
    }

    /// A user and their key.
    pub async fn user(&self, name: &str) -> (String, String) {
        self.user_at(name, "test").await
    }

    /// A user of a level of their own, who may use the engine; and their key.
    pub async fn limited(&self, name: &str, mut level: Value) -> String {
        level["name"] = json!(name);
        level["weight"] = json!(1.0);
        self.do_admin("/levels", level).await;
        let (user, key) = self.user_at(name, name).await;
        self.do_admin("/assignments", json!({"engineId": self.engine, "to": {"user": user}})).await;
        key
    }

    async fn user_at(&self, name: &str, level: &str) -> (String, String) {
        let user = self.do_admin("/users", json!({"name": name, "level": level})).await;
        let user = user["id"].as_str().unwrap().to_owned();
        let key = self.do_admin("/keys", json!({"userId": user})).await;
        (user, key["key"].as_str().unwrap().to_owned())
    }

    pub fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.admin_url)).bearer_auth(&self.admin_token)
    }

    pub async fn do_admin(&self, path: &str, body: Value) -> Value {
        let response = self.admin(Method::POST, path).json(&body).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.text().await.unwrap());
        response.json().await.unwrap()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    pub async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.request(Method::POST, path).json(body).send().await.unwrap()
    }

    pub async fn submit(&self) -> String {
        let response = self.post("/v1/engines/letter/execute", &json!({"input": {"topic": "bees"}})).await;
        assert_eq!(response.status(), 202);
        body(response).await["executionId"].as_str().unwrap().to_owned()
    }

    /// What only an operator of the database can do.
    pub async fn sql(&self, statement: &str) {
        let (client, connection) = tokio_postgres::connect(&self.database.url(), tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute(statement).await.unwrap();
        drop(client);
        connection.await.unwrap().unwrap();
    }

    /// With somebody else's key.
    pub fn with_key(&self, key: &str, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(key)
    }

    pub async fn end(self) {
        assert_eq!(self.edge.stop(Duration::from_secs(30)).await, service::shutdown::Ended::Drained, "the gateway");
        self.ledger.stop(Duration::from_secs(2)).await;
        drop((self.files, self.database));
    }
}

pub async fn body(response: Response) -> Value {
    let text = response.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Checks that a response is this problem, and returns it.
pub async fn problem(response: Response, status: u16, code: &str) -> Value {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let got = response.status().as_u16();
    let problem = body(response).await;
    assert_eq!((got, problem["code"].as_str().unwrap()), (status, code), "{problem:#}");
    assert_eq!(problem["status"], status);
    assert_eq!(problem["requestId"], id);
    problem
}

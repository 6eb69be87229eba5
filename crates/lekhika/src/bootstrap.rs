//! What a new platform needs before anybody can use it: a level, a user, the sample engines, a key. All through the admin
//! listener, as an operator would.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rand::RngExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::refusal::{self, Refusal};

/// The engines that come with the binary, the sample first.
pub const ENGINES: [&str; 3] = [
    include_str!("../../../examples/engines/field-guide.yaml"),
    include_str!("../../../examples/engines/blog-post.yaml"),
    include_str!("../../../examples/engines/summarise.yaml"),
];

/// The input of the sample.
pub const SAMPLE_INPUT: &str = include_str!("../../../examples/field-guide.json");

/// How long a platform may take to answer its first request.
const UP_WITHIN: Duration = Duration::from_secs(30);

/// The secrets of a private platform, made once and kept in its data folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secrets {
    service: String,
    key_pepper: String,
    admin: String,
    link: String,
}

impl Secrets {
    /// Reads the secrets of a data folder, or makes them.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn of(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("secrets.json");
        if let Ok(text) = std::fs::read_to_string(&path) {
            return serde_json::from_str(&text).with_context(|| format!("`{}` cannot be read", path.display()));
        }
        let secret = || {
            let mut bytes = [0_u8; 32];
            rand::rng().fill(&mut bytes);
            hex::encode(bytes)
        };
        let secrets = Self { service: secret(), key_pepper: secret(), admin: secret(), link: secret() };
        write_private(&path, &serde_json::to_string_pretty(&secrets)?)?;
        Ok(secrets)
    }

    /// Signs internal requests.
    #[must_use]
    pub fn service(&self) -> SecretString {
        self.service.clone().into()
    }

    /// The pepper of key hashes.
    #[must_use]
    pub fn key_pepper(&self) -> SecretString {
        self.key_pepper.clone().into()
    }

    /// Signs operators' tokens.
    #[must_use]
    pub fn admin(&self) -> SecretString {
        self.admin.clone().into()
    }

    /// Signs links to files.
    #[must_use]
    pub fn link(&self) -> SecretString {
        self.link.clone().into()
    }
}

/// Writes a file that only its owner may read; whoever reads it sees all of it or the one before.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let draft = path.with_extension("draft");
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    };
    write().with_context(|| format!("`{}` cannot be written", path.display()))
}

/// A client of the admin listener.
pub struct AdminClient {
    base: String,
    token: SecretString,
    http: reqwest::Client,
}

impl AdminClient {
    /// A client of the admin listener at `base`.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(base: &str, token: SecretString) -> anyhow::Result<Self> {
        let http = service::http_client::build(&service::http_client::ClientConfig::reaching(base))?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), token, http })
    }

    /// Reads something.
    ///
    /// # Errors
    /// When it is refused or the listener cannot be reached.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(self.http.get(format!("{}/admin/v1{path}", self.base))).await
    }

    /// Does something.
    ///
    /// # Errors
    /// When it is refused or the listener cannot be reached.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.send(self.http.post(format!("{}/admin/v1{path}", self.base)).json(body)).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let response = request.bearer_auth(self.token.expose_secret()).send().await;
        let response = response.with_context(|| format!("the admin listener at {} cannot be reached", self.base))?;
        let status = response.status();
        let body = response.bytes().await?;
        if !status.is_success() {
            return Err(Refusal::of(status, &body).into());
        }
        Ok(if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? })
    }
}

/// What a bootstrapped platform has.
#[derive(Debug, Clone)]
pub struct Demo {
    /// The sample engine.
    pub engine_id: String,
    /// A key that is bound to no engine: shown once.
    pub api_key: SecretString,
}

/// [`demo`], as soon as the platform answers: the leader needs a moment to be elected. What it refuses for good is not
/// asked again.
///
/// # Errors
/// As [`demo`].
pub async fn demo_when_up(admin: &AdminClient, folder: &Path, model: Option<&str>) -> anyhow::Result<Demo> {
    let deadline = Instant::now() + UP_WITHIN;
    loop {
        match demo(admin, folder, model).await {
            Ok(demo) => return Ok(demo),
            Err(error) if refusal::is_permanent(&error) => return Err(error.context("the platform cannot be set up")),
            Err(error) if Instant::now() >= deadline => return Err(error.context("the platform does not come up")),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Makes the demo level (no limits), its user, the sample engines and a new key; ends the key of the last start.
///
/// # Errors
/// When the platform refuses something.
pub async fn demo(admin: &AdminClient, folder: &Path, model: Option<&str>) -> anyhow::Result<Demo> {
    admin.post("/levels", &json!({ "name": "demo", "weight": 1.0, "maxPriority": "urgent" })).await?;
    let user = admin.post("/users", &json!({ "name": "demo", "level": "demo" })).await?;
    let user = user.get("id").cloned().context("a user has an id")?;
    let mut engines = Vec::new();
    for text in ENGINES {
        let flow = domain::flow::read(text).map_err(|problem| anyhow::anyhow!("{}", problem.message))?;
        let flow = model.map_or_else(|| flow.clone(), |model| domain::flow::with_default_model(&flow, model));
        let deployed = admin.post("/engines", &json!({ "flow": flow })).await?;
        let engine = deployed.get("engineId").cloned().context("an engine has an id")?;
        admin.post("/assignments", &json!({ "engineId": engine, "to": { "user": user } })).await?;
        engines.push(engine);
    }
    let last = folder.join("demo-key-id");
    if let Ok(id) = std::fs::read_to_string(&last) {
        let revoked = admin.post(&format!("/keys/{}/revoke", id.trim()), &json!({})).await;
        // It may be gone already: what matters is that it does not live.
        let gone = |error: &anyhow::Error| error.downcast_ref().is_some_and(Refusal::is_not_found);
        if let Err(error) = revoked
            && !gone(&error)
        {
            return Err(error.context("the key of the last start cannot be ended"));
        }
    }
    let key = admin.post("/keys", &json!({ "userId": user, "name": "demo" })).await?;
    let text = |name: &str| key.get(name).and_then(Value::as_str).map(str::to_owned).context("a key has an id");
    write_private(&last, &text("id")?)?;
    let engine_id = engines.first().and_then(Value::as_str).context("there is a sample engine")?.to_owned();
    Ok(Demo { engine_id, api_key: text("key")?.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::stub::Stub;

    async fn platform() -> (Stub, AdminClient, tempfile::TempDir) {
        let stub = Stub::start().await;
        let admin = AdminClient::new(&stub.url(), "token".to_owned().into()).unwrap();
        (stub, admin, tempfile::tempdir().unwrap())
    }

    /// Everything up to the revocation, which is answered with `revoked`; then the new key, if it is asked for.
    async fn set_up(stub: &Stub, revoked: (&str, &str)) {
        stub.answer("200 OK", "{}").await;
        stub.answer("200 OK", r#"{"id":"usr_1"}"#).await;
        for _ in ENGINES {
            stub.answer("200 OK", r#"{"engineId":"eng_1"}"#).await;
            stub.answer("204 No Content", "").await;
        }
        let request = stub.answer(revoked.0, revoked.1).await;
        assert!(request.starts_with("POST /admin/v1/keys/key_last/revoke "), "{request}");
        stub.answer("200 OK", r#"{"id":"key_new","key":"secret"}"#).await;
    }

    #[tokio::test]
    async fn a_key_of_the_last_start_that_may_live_on_is_an_error_and_one_that_is_gone_is_none() {
        for (status, body, fine) in [
            ("204 No Content", "", true),
            ("404 Not Found", r#"{"code":"not_found"}"#, true),
            ("503 Service Unavailable", r#"{"code":"unavailable"}"#, false),
        ] {
            let (stub, admin, folder) = platform().await;
            let last = folder.path().join("demo-key-id");
            std::fs::write(&last, "key_last").unwrap();

            let made = tokio::select! {
                made = demo(&admin, folder.path(), None) => made,
                () = async { set_up(&stub, (status, body)).await; std::future::pending().await } => unreachable!(),
            };

            assert_eq!(made.is_ok(), fine, "{status}: {made:?}");
            assert_eq!(std::fs::read_to_string(last).unwrap(), if fine { "key_new" } else { "key_last" });
        }
    }

    #[tokio::test]
    async fn what_is_refused_for_good_is_not_asked_for_half_a_minute() {
        let (stub, admin, folder) = platform().await;
        let away = async {
            stub.answer("503 Service Unavailable", r#"{"code":"unavailable"}"#).await;
            stub.answer("403 Forbidden", r#"{"code":"forbidden","detail":"not with this token"}"#).await;
        };

        let ((), made) = tokio::join!(away, demo_when_up(&admin, folder.path(), None));

        assert!(format!("{:#}", made.unwrap_err()).contains("403 (forbidden): not with this token"));
    }
}

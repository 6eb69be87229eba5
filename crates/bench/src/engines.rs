//! The engines that are measured, and their owner: deployed over the admin listener as any operator would.

use anyhow::Context as _;
use bytes::Bytes;
use domain::{EngineId, Priority, UserId};
use http::Method;
use protocol::operate::{Assign, Assignee, Created, PutLevel, PutUser};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{http::Connection, scenarios::streaming::TOKENS_PER_SECOND};

const THREE_STEPS: &str = include_str!("../flows/bench-3-steps.yaml");
const STREAMING: &str = include_str!("../flows/bench-streaming.yaml");
const OWNER: &str = "bench";

/// One of the flows in `flows/`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Engine {
    /// Three model calls, one after the other, to a model that answers at once.
    ThreeSteps,
    /// One model call that streams this many tokens at 20 per second.
    Streaming {
        /// Of its text.
        tokens: u32,
    },
}

/// What is needed to execute an engine.
#[derive(Debug)]
pub(crate) struct Deployed {
    /// An API key of the engine's only user.
    pub(crate) key: String,
}

#[derive(Deserialize)]
struct NewKey {
    key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewVersion {
    engine_id: EngineId,
}

impl Engine {
    /// Its unique name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ThreeSteps => "bench-3-steps",
            Self::Streaming { .. } => "bench-streaming",
        }
    }

    /// The body of a submission.
    pub(crate) fn body(self) -> Bytes {
        Bytes::from_static(br#"{"input":{"topic":"how rivers shape the land they cross"}}"#)
    }

    fn flow(self) -> anyhow::Result<Value> {
        let text = match self {
            Self::ThreeSteps => THREE_STEPS.to_owned(),
            Self::Streaming { tokens } => {
                STREAMING.replace("MODEL", &format!("sim/tokens-{tokens}-rate-{TOKENS_PER_SECOND}"))
            }
        };
        serde_saphyr::from_str(&text).with_context(|| format!("reading the flow `{}`", self.name()))
    }
}

/// Deploys `engine`, with a user of their own without limits, and makes a key.
///
/// # Errors
/// When the admin listener refuses any of it; the message carries its answer.
pub(crate) async fn deploy(admin_url: &str, token: &str, engine: Engine) -> anyhow::Result<Deployed> {
    let mut admin = Admin { connection: Connection::new(admin_url, Some(token))? };
    let level = PutLevel {
        name: OWNER.into(),
        weight: 1.0,
        max_running: None,
        max_queued: None,
        requests_per_minute: None,
        max_priority: Priority::Urgent,
    };
    admin.post::<Value>("levels", &level).await?;
    let user: Created<UserId> = admin.post("users", &PutUser { name: OWNER.into(), level: OWNER.into() }).await?;
    let version: NewVersion = admin.post("engines", &json!({ "flow": engine.flow()? })).await?;
    let assign = Assign { engine_id: version.engine_id, to: Assignee::User(user.id) };
    admin.post::<Value>("assignments", &assign).await?;
    let key: NewKey = admin.post("keys", &json!({ "userId": user.id, "name": OWNER })).await?;
    Ok(Deployed { key: key.key })
}

struct Admin {
    connection: Connection,
}

impl Admin {
    async fn post<T: DeserializeOwned>(&mut self, resource: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let path = format!("/admin/v1/{resource}");
        let body = Bytes::from(serde_json::to_vec(body)?);
        self.connection.call(Method::POST, &path, body).await?.json(&path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flows_are_valid_and_carry_the_names_and_models_that_are_measured() {
        let steps = Engine::ThreeSteps;
        let streaming = Engine::Streaming { tokens: 200 };

        for engine in [steps, streaming] {
            domain::flow::validate_document(&engine.flow().unwrap()).unwrap();
        }
        assert_eq!(steps.flow().unwrap()["name"], steps.name());
        assert_eq!(steps.flow().unwrap()["defaults"]["model"], "sim/instant");
        assert_eq!(streaming.flow().unwrap()["name"], streaming.name());
        assert_eq!(streaming.flow().unwrap()["nodes"][1]["model"], "sim/tokens-200-rate-20");
    }
}

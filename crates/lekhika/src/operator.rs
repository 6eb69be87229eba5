//! `lekhika admin ..`: what an operator does through the admin listener.

use admin::Role;
use anyhow::Context as _;
use chrono::TimeDelta;
use secrecy::SecretString;
use serde_json::{Value, json};
use service::{Clock as _, Environment, SystemClock};

use crate::{
    bootstrap::AdminClient,
    cli::{AdminArguments, AdminCommand, EngineCommand, KeyCommand, RoleArgument},
    client::say,
};

/// Does one thing and prints what came of it as JSON.
///
/// # Errors
/// When it is refused or the listener cannot be reached.
pub async fn run(arguments: &AdminArguments, command: AdminCommand) -> anyhow::Result<()> {
    if let AdminCommand::Token { role, hours } = command {
        return token(role, hours);
    }
    let token = arguments.token.clone().context("give an admin token: --token or LEKHIKA_ADMIN_TOKEN")?;
    let client = AdminClient::new(&arguments.url, SecretString::from(token))?;
    let value = ask(&client, command).await?;
    say(&serde_json::to_string_pretty(&value)?);
    Ok(())
}

fn token(role: RoleArgument, hours: u32) -> anyhow::Result<()> {
    let environment = Environment::from_process();
    let secret = environment.long_secret("LEKHIKA_ADMIN_SECRET")?;
    let role = match role {
        RoleArgument::Owner => Role::Owner,
        RoleArgument::Admin => Role::Admin,
        RoleArgument::Operator => Role::Operator,
        RoleArgument::Viewer => Role::Viewer,
    };
    let life = TimeDelta::hours(i64::from(hours));
    say(&admin::issue_token(&secret, "cli", role, SystemClock.now(), life)?);
    Ok(())
}

async fn ask(client: &AdminClient, command: AdminCommand) -> anyhow::Result<Value> {
    match command {
        AdminCommand::Token { .. } => Ok(Value::Null),
        AdminCommand::Level { name, weight, max_running, max_queued, requests_per_minute, max_priority } => {
            let body = json!({
                "name": name, "weight": weight, "maxRunning": max_running, "maxQueued": max_queued,
                "requestsPerMinute": requests_per_minute, "maxPriority": max_priority,
            });
            client.post("/levels", &body).await
        }
        AdminCommand::User { name, level } => client.post("/users", &json!({ "name": name, "level": level })).await,
        AdminCommand::Deploy { file } => {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("`{}` cannot be read", file.display()))?;
            let flow = crate::flow::check(&text, &file.display().to_string())?;
            client.post("/engines", &json!({ "flow": flow })).await
        }
        AdminCommand::Assign { engine, user, level } => {
            let to = match (user, level) {
                (Some(user), _) => json!({ "user": user }),
                (None, level) => json!({ "level": level }),
            };
            client.post("/assignments", &json!({ "engineId": engine, "to": to })).await
        }
        AdminCommand::Engine { command } => {
            let (engine, word) = match command {
                EngineCommand::Enable { engine } => (engine, "enable"),
                EngineCommand::Disable { engine } => (engine, "disable"),
            };
            client.post(&format!("/engines/{}/{word}", segment(&engine)), &json!({})).await
        }
        AdminCommand::Key { command } => key(client, command).await,
        AdminCommand::Executions { status, page_size, page_token } => {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(status.map(|status| ("status", status)));
            query.extend_pairs(page_size.map(|size| ("pageSize", size.to_string())));
            query.extend_pairs(page_token.map(|token| ("pageToken", token)));
            client.get(&format!("/executions?{}", query.finish())).await
        }
        AdminCommand::Executors => client.get("/executors").await,
        AdminCommand::Invariants => {
            let found = client.get("/invariants").await?;
            let empty = found.get("violations").and_then(Value::as_array).is_some_and(Vec::is_empty);
            anyhow::ensure!(empty, "{}", serde_json::to_string_pretty(&found)?);
            Ok(found)
        }
    }
}

/// A text as one segment of a path.
fn segment(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

async fn key(client: &AdminClient, command: KeyCommand) -> anyhow::Result<Value> {
    match command {
        KeyCommand::Create { user, user_engine, name, origins, expires } => {
            let body = json!({
                "userId": user, "userEngineId": user_engine, "name": name, "origins": origins, "expiresAt": expires,
            });
            client.post("/keys", &body).await
        }
        KeyCommand::Rotate { id, grace_hours } => {
            let grace = u64::from(grace_hours) * 3_600_000;
            client.post(&format!("/keys/{}/rotate", segment(&id)), &json!({ "graceMs": grace })).await
        }
        KeyCommand::Revoke { id } => {
            client.post(&format!("/keys/{}/revoke", segment(&id)), &json!({})).await?;
            Ok(json!({ "revoked": id }))
        }
    }
}

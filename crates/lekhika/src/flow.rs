//! `lekhika flow ..`: works on flow documents, offline unless a server is named.

use anyhow::Context as _;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::{bootstrap::AdminClient, cli::FlowCommand, client::say};

/// Runs one command.
///
/// # Errors
/// When the document has problems: the message explains all of them.
pub async fn run(command: FlowCommand) -> anyhow::Result<()> {
    let FlowCommand::Validate { file, server, token } = command;
    let name = file.display().to_string();
    let text = std::fs::read_to_string(&file).with_context(|| format!("`{name}` cannot be read"))?;
    let flow = check(&text, &name)?;
    if let Some(server) = server {
        let token = token.context("give an admin token: --token or LEKHIKA_ADMIN_TOKEN")?;
        ask(&AdminClient::new(&server, SecretString::from(token))?, &flow, &name).await?;
    }
    say(&format!("{name}: no problems"));
    Ok(())
}

/// The document, if it has no problems.
///
/// # Errors
/// Explains every problem.
pub fn check(text: &str, name: &str) -> anyhow::Result<Value> {
    let explain = |problems: &[domain::flow::FlowProblem]| anyhow::anyhow!("{}", domain::flow::explain(problems, name));
    let document = domain::flow::read(text).map_err(|problem| explain(&[problem]))?;
    domain::flow::validate_document(&document).map_err(|problems| explain(&problems))?;
    Ok(document)
}

/// Asks a platform whether it has the flow's models.
async fn ask(client: &AdminClient, flow: &Value, name: &str) -> anyhow::Result<()> {
    let answer = client.post("/flows/validate", &json!({ "flow": flow })).await?;
    for warning in lines(&answer, "warnings") {
        say(&format!("{name}: {warning}"));
    }
    let problems = lines(&answer, "problems");
    anyhow::ensure!(problems.is_empty(), "{name} has problems:\n  {}", problems.join("\n  "));
    Ok(())
}

/// Each entry of a list of what is wrong, as a line.
fn lines(answer: &Value, list: &str) -> Vec<String> {
    let entries = answer.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |entry: &Value, field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    entries.iter().map(|entry| format!("{}: {}", text(entry, "pointer"), text(entry, "message"))).collect()
}

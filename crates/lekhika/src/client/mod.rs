//! `lekhika run`, `watch` and `stop`: clients of the public API, as any integrator would write them.

pub mod api;
pub mod display;
pub mod follow;
#[cfg(test)]
pub(crate) mod stub;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::refusal::Refusal;
use api::{Accepted, ApiClient, Execution};
use display::Display;

/// How often a submission is sent, with a second between, while the platform says that it is away.
const SUBMITS: u32 = 10;

/// Submits `input` to `engine`, follows it, and saves its files below `out`.
///
/// # Errors
/// When it is refused, does not complete, or a file cannot be saved.
pub async fn run(client: &ApiClient, engine: &str, input: &Path, out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(input).with_context(|| format!("`{}` cannot be read", input.display()))?;
    let input: Value = serde_json::from_str(&text).with_context(|| format!("`{}` is not JSON", input.display()))?;
    run_input(client, engine, &input, out).await
}

/// [`run`] with the input at hand.
///
/// # Errors
/// As [`run`].
pub async fn run_input(client: &ApiClient, engine: &str, input: &Value, out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let accepted = submit(client, engine, input).await?;
    say(&format!("execution {}", accepted.execution_id));
    watch(client, &accepted.execution_id, out).await
}

/// With a key, so that asking again after a lost answer is not a second execution.
async fn submit(client: &ApiClient, engine: &str, input: &Value) -> anyhow::Result<Accepted> {
    let key = uuid::Uuid::new_v4().to_string();
    let mut tries = 1;
    loop {
        match client.submit(engine, input, &key).await {
            Err(error) if tries < SUBMITS && may_have_arrived(&error) => tries += 1,
            other => return other,
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Not when nobody listens there: that is told at once.
fn may_have_arrived(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<Refusal>().map(Refusal::is_unavailable);
    refused.unwrap_or_else(|| {
        error.chain().any(|cause| cause.downcast_ref().is_some_and(|cause: &reqwest::Error| !cause.is_connect()))
    })
}

/// Follows an execution to its end and saves its files below `out`.
///
/// # Errors
/// When it does not complete, or a file cannot be saved.
pub async fn watch(client: &ApiClient, id: &str, out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    follow::follow(client, id, &mut Display::detect()).await?;
    let execution = client.execution(id).await?;
    let tokens = execution.usage.map_or(0, |usage| usage.total);
    say(&format!("{} ({tokens} tokens)", execution.status));
    if execution.status != "completed" {
        let error = execution.error.map_or_else(String::new, |error| format!(": {} ({})", error.detail, error.code));
        bail!("{id} is {}{error}", execution.status);
    }
    save(client, &execution, out).await
}

/// Asks to stop an execution and says where it is.
///
/// # Errors
/// When it is not there or the platform cannot be reached.
pub async fn stop(client: &ApiClient, id: &str) -> anyhow::Result<()> {
    let status = client.stop(id).await?;
    say(&format!("{id} {status}"));
    Ok(())
}

async fn save(client: &ApiClient, execution: &Execution, out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = out.join(&execution.execution_id);
    let mut saved = Vec::new();
    for file in &execution.deliverables {
        let Some(url) = file.url.as_deref().filter(|_| file.status == "ready") else {
            say(&format!("{}: {}", file.format, file.status));
            continue;
        };
        // The name comes over the network: only its last part may name a file of ours.
        let name = Path::new(&file.name).file_name().context("a deliverable has no name")?;
        std::fs::create_dir_all(&folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
        let path = folder.join(name);
        let bytes = client.download(url).await?;
        std::fs::write(&path, bytes).with_context(|| format!("`{}` cannot be written", path.display()))?;
        saved.push(path);
    }
    for path in &saved {
        say(&format!("  {}", path.display()));
    }
    Ok(saved)
}

/// Prints a line on standard output. A reader that went away (`| head`) is no error.
pub fn say(line: &str) {
    use std::io::Write as _;
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

/// Prints a line on standard error.
pub fn complain(line: &str) {
    use std::io::Write as _;
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use stub::Stub;

    #[tokio::test]
    async fn a_submission_whose_answer_was_lost_is_sent_again_under_the_same_key() {
        let platform = Stub::start().await;
        let client = ApiClient::new(&platform.url(), "secret".to_owned().into()).unwrap();
        let key = |request: &str| {
            let line = request.lines().find_map(|line| line.strip_prefix("idempotency-key: "));
            line.unwrap().to_owned()
        };
        let answers = async {
            let lost = platform.hang_up().await;
            let away = platform.answer("503 Service Unavailable", "{}").await;
            let accepted = platform.answer("202 Accepted", r#"{"executionId":"exec_1","status":"queued"}"#).await;
            [lost, away, accepted].map(|request| key(&request))
        };

        let (keys, accepted) = tokio::join!(answers, submit(&client, "engine", &Value::Null));

        assert_eq!(accepted.unwrap().execution_id, "exec_1");
        assert!(!keys[0].is_empty() && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    }

    #[tokio::test]
    async fn what_is_refused_for_good_is_asked_once() {
        let platform = Stub::start().await;
        let client = ApiClient::new(&platform.url(), "secret".to_owned().into()).unwrap();
        let refusal = r#"{"code":"not_found","detail":"there is no such execution"}"#;
        let mut display = Display::detect();

        let (_, followed) =
            tokio::join!(platform.answer("404 Not Found", refusal), follow::follow(&client, "exec_1", &mut display));

        assert_eq!(followed.unwrap_err().to_string(), "404 (not_found): there is no such execution");
    }
}

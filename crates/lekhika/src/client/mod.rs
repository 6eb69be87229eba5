//! `lekhika run`, `watch` and `stop`: clients of the public API, as any integrator would write them.

pub mod api;
pub mod display;
pub mod follow;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;

use api::{ApiClient, Execution};
use display::Display;

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
    let accepted = client.submit(engine, input).await?;
    say(&format!("execution {}", accepted.execution_id));
    watch(client, &accepted.execution_id, out).await
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

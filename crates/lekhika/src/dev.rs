//! `lekhika dev`: the whole platform in one process, and the sample through its public API.

mod introduction;
mod platform;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use instances::Folder;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use service::{
    Environment,
    telemetry::{self, TelemetryConfig},
};

use crate::{
    bootstrap::{self, AdminClient, Demo},
    cli::DevArguments,
    client::{self, api::ApiClient, complain, say},
    signals::Ends,
};
use platform::Platform;

/// The model that writes when an OpenAI-compatible provider is configured and no model is named.
const OPENAI_MODEL: &str = "gpt-4o-mini";
/// What says where everything is, for as long as it is there.
const FILE: &str = "dev.json";

/// Runs the platform until it is told to end, or (`--once`) until the sample is done.
///
/// # Errors
/// When something cannot be started, or with `--once` the sample did not complete.
pub async fn run(arguments: DevArguments) -> anyhow::Result<()> {
    let environment = Environment::from_process();
    let mut logs = TelemetryConfig::from_environment(&environment)?;
    if environment.optional("LEKHIKA_LOG").is_none() {
        logs.filter = "error".to_owned();
    }
    logs.text = true;
    let telemetry = telemetry::init("dev", &logs)?;
    let result = live(&arguments, &environment).await;
    telemetry.shutdown();
    result
}

/// The platform's whole life. Whatever ends its use, once it has started it is stopped in order.
async fn live(arguments: &DevArguments, environment: &Environment) -> anyhow::Result<()> {
    let mut ends = Ends::listen()?;
    let folder = Folder::own(&data_dir(arguments.data_dir.as_deref(), environment)?)?;
    let file = folder.path().join(FILE);
    // From here on the folder is ours: what it says of an earlier run is over.
    drop(std::fs::remove_file(&file));
    let platform = tokio::select! {
        platform = Platform::start(arguments, environment, folder.path()) => platform?,
        () = ends.next() => return told_to_end(arguments),
    };
    let ended = tokio::select! {
        ended = serve(arguments, environment, &platform, folder.path()) => ended,
        () = ends.next() => told_to_end(arguments),
    };
    drop(std::fs::remove_file(&file));
    platform.stop(&mut ends).await;
    ended
}

fn told_to_end(arguments: &DevArguments) -> anyhow::Result<()> {
    anyhow::ensure!(!arguments.once, "told to end before the sample was done");
    say("stopping");
    Ok(())
}

/// Returns with `--once` only.
async fn serve(
    arguments: &DevArguments,
    environment: &Environment,
    platform: &Platform,
    folder: &Path,
) -> anyhow::Result<()> {
    let model = environment.or("LEKHIKA_OPENAI_MODEL", OPENAI_MODEL);
    let model = environment.optional_secret("LEKHIKA_OPENAI_API_KEY").map(|_key| format!("openai/{model}"));
    let admin = AdminClient::new(&platform.admin_url, SecretString::from(platform.admin_token.clone()))?;
    let demo = bootstrap::demo_when_up(&admin, folder, model.as_deref()).await?;
    write_file(platform, &demo, folder)?;
    let simulated = model.is_none();
    if arguments.once {
        sample(platform, &demo, folder).await?;
        if simulated {
            say(introduction::SIMULATED);
        }
        return Ok(());
    }
    if !arguments.no_sample
        && let Err(error) = sample(platform, &demo, folder).await
    {
        complain(&format!("the sample did not complete: {error:#}"));
    }
    for line in introduction::lines(&platform.public_url, demo.api_key.expose_secret(), simulated) {
        say(&line);
    }
    std::future::pending().await
}

/// The sample, as any client would run it.
async fn sample(platform: &Platform, demo: &Demo, folder: &Path) -> anyhow::Result<()> {
    let client = ApiClient::new(&platform.public_url, demo.api_key.clone())?;
    let input: Value = serde_json::from_str(bootstrap::SAMPLE_INPUT).context("the sample's input is JSON")?;
    client::run_input(&client, "field-guide", &input, &folder.join("out")).await.map(drop)
}

fn write_file(platform: &Platform, demo: &Demo, folder: &Path) -> anyhow::Result<()> {
    let file = json!({
        "publicUrl": platform.public_url,
        "adminUrl": platform.admin_url,
        "apiKey": demo.api_key.expose_secret(),
        "engineId": demo.engine_id,
        "adminToken": platform.admin_token,
        "simulatorUrl": platform.simulator_url(),
        "pid": std::process::id(),
    });
    bootstrap::write_private(&folder.join(FILE), &format!("{file:#}\n"))
}

/// Root's database runs as another user, who must be able to reach it: not below root's home.
fn data_dir(asked: Option<&Path>, environment: &Environment) -> anyhow::Result<PathBuf> {
    Ok(match asked {
        Some(folder) => std::path::absolute(folder)?,
        None if nix::unistd::Uid::effective().is_root() => PathBuf::from("/var/lib/lekhika/dev"),
        None => match environment.optional("XDG_DATA_HOME") {
            Some(data) => PathBuf::from(data).join("lekhika/dev"),
            None => PathBuf::from(environment.required("HOME")?).join(".local/share/lekhika/dev"),
        },
    })
}

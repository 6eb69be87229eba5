//! Which scenario runs on which platform, in which order.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use std::os::unix::fs::PermissionsExt as _;

use crate::{
    arguments::{Arguments, Plan, Subject},
    database::Database,
    engines::{self, Engine},
    load::Target,
    report::Report,
    scenarios::{accepted, completed, latency, memory, queue, raw, streaming},
    signals::Signals,
    stack::{Platform, Stack},
};

/// The distributed layout that is measured.
const LAYOUT: [&str; 6] = ["--gateways", "2", "--statuses", "2", "--executors", "3"];
/// One executor with room for every stream.
const STREAMING_LAYOUT: [&str; 8] = ["--gateways", "2", "--statuses", "1", "--executors", "1", "--slots", "2048"];

/// Measures everything that was asked for.
///
/// # Errors
/// When something could not be measured; a missed target is none.
pub(crate) async fn all(arguments: &Arguments, report: &mut Report, signals: &mut Signals) -> anyhow::Result<()> {
    let plan = arguments.plan();
    report.fact("cores", std::thread::available_parallelism().map_or(1, usize::from).to_string());
    report.fact("build", arguments.profile.clone());
    report.fact("run", if arguments.quick { "--quick" } else { "full" });
    let temporary = if arguments.data_dir.is_none() { Some(temporary_folder()?) } else { None };
    let folder = arguments
        .data_dir
        .as_deref()
        .or(temporary.as_ref().map(tempfile::TempDir::path))
        .context("there is no folder to work in")?;
    let folder = std::path::absolute(folder)?;

    if Subject::on_main_stack().iter().any(|subject| arguments.wants(*subject)) {
        eprintln!("starting the distributed layout");
        let platform = Platform::spawn(&arguments.stack, &folder.join("main"), &LAYOUT)?;
        let measuring = async |stack: Stack| Box::pin(main_stack(arguments, &plan, &stack, &folder, report)).await;
        on(platform, signals, measuring).await?;
    }
    if arguments.wants(Subject::Streaming) {
        eprintln!("starting one executor with room for {} executions", plan.streams);
        let platform = Platform::spawn(&arguments.stack, &folder.join("streaming"), &STREAMING_LAYOUT)?;
        let measuring = async |stack: Stack| {
            let database = Database::connect(&stack.facts.database_url).await?;
            let target = target(&stack, Engine::Streaming { tokens: plan.tokens }).await?;
            Box::pin(streaming::run(&stack, &database, &target, &plan, report)).await
        };
        on(platform, signals, measuring).await?;
    }
    Ok(())
}

/// Measures on a platform as soon as it is ready. Whether that succeeds, fails, or is ended by a signal: the platform has
/// stopped when this returns, and its folder may be removed.
async fn on(
    mut platform: Platform,
    signals: &mut Signals,
    measuring: impl AsyncFnOnce(Stack) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let measured = tokio::select! {
        measured = async { measuring(platform.ready().await?).await } => measured,
        told = signals.next() => Err(told),
    };
    let stopped = platform.stop().await;
    measured.and(stopped)
}

async fn main_stack(
    arguments: &Arguments,
    plan: &Plan,
    stack: &Stack,
    folder: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    let database = Database::connect(&stack.facts.database_url).await?;
    report.fact(
        "postgres",
        format!("{}, fsync {}", database.setting("server_version").await?, database.setting("fsync").await?),
    );
    if arguments.wants(Subject::Memory) {
        memory::run(stack, report).await?;
    }
    if arguments.wants(Subject::Raw) {
        raw::run(&stack.facts, folder, plan.raw, report).await?;
    }
    let target = target(stack, Engine::ThreeSteps).await?;
    if arguments.wants(Subject::Latency) {
        latency::run(&target, &database, plan.latency_samples, report).await?;
    }
    if arguments.wants(Subject::Completed) {
        completed::run(stack, &database, &target, plan, report).await?;
    }

    // Last, because what they leave queued is never drained.
    let few = if arguments.wants(Subject::Queue) {
        latency::wait_until_finished(&database, latency::FINISH).await?;
        Some(queue::Costs::measure(stack, &database, &target, plan, plan.few).await?)
    } else {
        None
    };
    if arguments.wants(Subject::Accepted) {
        // What an executor holds while it is paused is taken from it, and until its lease has run out the leader releases
        // to it: work that is not to be measured.
        latency::wait_until_finished(&database, latency::FINISH).await?;
        stack.pause_executors()?;
        queue::leases_have_lapsed(&database).await?;
        accepted::run(stack, &target, plan, report).await?;
    }
    if let Some(few) = few {
        let many = queue::Costs::measure(stack, &database, &target, plan, plan.many).await?;
        queue::compare(&few, &many, report);
    }
    Ok(())
}

impl Subject {
    const fn on_main_stack() -> [Self; 6] {
        [Self::Raw, Self::Memory, Self::Latency, Self::Completed, Self::Accepted, Self::Queue]
    }
}

async fn target(stack: &Stack, engine: Engine) -> anyhow::Result<Target> {
    let deployed = engines::deploy(&stack.facts.admin_url, &stack.facts.admin_token, engine).await?;
    Ok(Target {
        urls: stack.facts.public_urls.clone(),
        key: deployed.key,
        path: format!("/v1/engines/{}/execute", engine.name()),
        body: engine.body(),
    })
}

/// A folder that the unprivileged user of the database can reach, on a disk that really syncs (a folder in memory would
/// make every commit free).
fn temporary_folder() -> anyhow::Result<tempfile::TempDir> {
    let persistent = PathBuf::from("/var/tmp");
    let parent = if persistent.is_dir() { persistent } else { std::env::temp_dir() };
    tempfile::Builder::new()
        .prefix("lekhika-bench-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in(parent)
        .context("making a temporary folder")
}

//! Who answers which command.

use anyhow::Context as _;
use nix::sys::signal::Signal;

use crate::{
    cli::{Arguments, ClientArguments, Command},
    client::{self, api::ApiClient},
    dev, flow, operator, roles, stack,
};

/// Runs one command to its end.
///
/// # Errors
/// Whatever a person has to know; the message is complete.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    end_with_owner(&arguments.command);
    match arguments.command {
        Command::Dev(arguments) => dev::run(arguments).await,
        Command::Stack(arguments) => stack::run(arguments).await,
        Command::Gateway => roles::gateway().await,
        Command::Status => roles::status().await,
        Command::Executor => roles::executor().await,
        Command::Migrate { revert_all } => roles::migrate(revert_all).await,
        Command::Simulator(arguments) => roles::simulator(&arguments).await,
        Command::Health { url } => health(&url).await,
        Command::Run(arguments) => {
            let client = connect(&arguments.client)?;
            client::run(&client, &arguments.engine, &arguments.input, &arguments.out).await.map(drop)
        }
        Command::Watch(arguments) => {
            let client = connect(&arguments.client)?;
            client::watch(&client, &arguments.id, &arguments.out).await.map(drop)
        }
        Command::Stop { id, client } => client::stop(&connect(&client)?, &id).await,
        Command::Flow { command } => flow::run(command).await,
        Command::Admin { admin, command } => operator::run(&admin, command).await,
    }
}

/// Services that a stack started die with it; a whole platform that a test started ends in order.
fn end_with_owner(command: &Command) {
    match command {
        Command::Dev(_) | Command::Stack(_) => instances::end_with_parent(Signal::SIGTERM),
        Command::Gateway | Command::Status | Command::Executor | Command::Simulator(_) => {
            instances::end_with_parent(Signal::SIGKILL);
        }
        _ => {}
    }
}

fn connect(arguments: &ClientArguments) -> anyhow::Result<ApiClient> {
    ApiClient::new(&arguments.url, arguments.key.clone().into())
}

async fn health(url: &str) -> anyhow::Result<()> {
    let http = service::http_client::build(&service::http_client::ClientConfig::reaching(url))?;
    let response = http.get(url).send().await.with_context(|| format!("`{url}` cannot be reached"))?;
    anyhow::ensure!(response.status().is_success(), "`{url}` answers {}", response.status());
    Ok(())
}

//! `with-services CMD...`: runs a command with a private Postgres and RabbitMQ, and stops both.
//!
//! `with-services --serve postgres|rabbitmq` starts one, prints where it is, and stops it when its input ends: for test
//! processes that run without the wrapper.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people and scripts")]

use anyhow::{Context, bail};
use instances::{PrivatePostgres, PrivateRabbit};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use service::Environment;
use std::{
    io::IsTerminal,
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
};
use testkit::services::{AMQP_VARIABLE, DATABASE_VARIABLE, Served, Server, postgres_options, rabbit_options};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match instances::reap() {
        Ok(0) => {}
        Ok(count) => eprintln!("with-services: cleaned up {count} servers of runs that were killed"),
        Err(error) => eprintln!("with-services: could not clean up after earlier runs: {error}"),
    }
    match arguments.as_slice() {
        [flag, server] if flag == "--serve" => serve(server).await,
        [program, arguments @ ..] => run(program, arguments).await,
        [] => bail!("usage: with-services CMD [ARGUMENT...]"),
    }
}

async fn run(program: &str, arguments: &[String]) -> anyhow::Result<ExitCode> {
    let environment = Environment::from_process();
    // From here on a signal must not end us before the servers are stopped.
    let mut signals = Signals::new()?;
    let starting = async {
        tokio::try_join!(
            PrivatePostgres::start(postgres_options(&environment)),
            PrivateRabbit::start(rabbit_options(&environment))
        )
    };
    let (mut postgres, mut rabbit) = tokio::select! {
        started = starting => started?,
        signal = signals.next() => return Ok(code_of_signal(signal)),
    };
    let mut command = Command::new(program);
    command.args(arguments).env(DATABASE_VARIABLE, postgres.url("postgres")).env(AMQP_VARIABLE, rabbit.url());
    // When we are killed, the next run finds the test runner and what it started by this.
    let (mark, folder) = postgres.folder().mark();
    command.env(mark, folder);
    let mut child = command.spawn().with_context(|| format!("run {program}"))?;
    let status = wait_and_forward(&mut child, &mut signals).await?;
    rabbit.kill9();
    postgres.stop().await;
    Ok(code_of(status))
}

async fn wait_and_forward(child: &mut Child, signals: &mut Signals) -> anyhow::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?),
            signal = signals.next() => {
                // A terminal sends Ctrl-C to the command itself as well.
                let sent_already = signal == Signal::SIGINT && std::io::stdin().is_terminal();
                let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
                if let Some(pid) = pid.filter(|_| !sent_already) {
                    let _ = kill(Pid::from_raw(pid), signal);
                }
            }
        }
    }
}

async fn serve(server: &str) -> anyhow::Result<ExitCode> {
    let environment = Environment::from_process();
    if server == Server::Postgres.name() {
        let mut postgres = PrivatePostgres::start(postgres_options(&environment)).await?;
        until_input_ends(postgres.url("postgres")).await?;
        postgres.stop().await;
    } else if server == Server::Rabbitmq.name() {
        let mut rabbit = PrivateRabbit::start(rabbit_options(&environment)).await?;
        until_input_ends(rabbit.url()).await?;
        rabbit.kill9();
    } else {
        bail!("there is no server `{server}`");
    }
    Ok(ExitCode::SUCCESS)
}

/// Ctrl-C is for the test process; when that ends, our input does.
async fn until_input_ends(url: String) -> anyhow::Result<()> {
    let _signals = Signals::new()?;
    println!("{}", serde_json::to_string(&Served { url })?);
    let ended = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    ended.await??;
    Ok(())
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.hangup.recv() => Signal::SIGHUP,
        }
    }
}

fn code_of(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn code_of_signal(signal: Signal) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(1))
}

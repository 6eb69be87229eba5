//! What can be asked for on the command line.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

mod operate;

pub use operate::{EngineCommand, KeyCommand, RoleArgument};

/// Lekhika runs AI engines as a service.
#[derive(Debug, Parser)]
#[command(name = "lekhika", version, about, propagate_version = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, services first.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole platform in one process, with a sample run.
    Dev(DevArguments),
    /// The whole platform as separate processes of this machine, on private Postgres and RabbitMQ.
    Stack(StackArguments),
    /// The HTTP edge: public API and admin listener.
    Gateway,
    /// The ledger: intake, scheduler, claims, reports, events.
    Status,
    /// The worker: runs engines.
    Executor,
    /// Brings the database to this release's form.
    Migrate {
        /// Undo every migration instead. All data is lost.
        #[arg(long)]
        revert_all: bool,
    },
    /// A model provider that needs no key: its text is a function of (seed, model, messages).
    Simulator(SimulatorArguments),
    /// Asks a health endpoint and exits 0 when it is well.
    Health {
        /// Such as `http://127.0.0.1:9000/readyz`.
        url: String,
    },
    /// Submits an input to an engine, follows it and saves its files.
    Run(RunArguments),
    /// Follows an execution and saves its files.
    Watch(WatchArguments),
    /// Stops an execution.
    Stop {
        /// The execution, `exec_..`.
        id: String,
        /// Where and as whom.
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Works on flow documents.
    Flow {
        /// What to do with it.
        #[command(subcommand)]
        command: FlowCommand,
    },
    /// Operates a platform through its admin listener.
    Admin {
        /// Where and as whom.
        #[command(flatten)]
        admin: AdminArguments,
        /// What to do.
        #[command(subcommand)]
        command: AdminCommand,
    },
}

/// `lekhika dev`.
#[derive(Debug, Clone, Args)]
pub struct DevArguments {
    /// Where the database and the files are kept between starts.
    #[arg(long, env = "LEKHIKA_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Port of the public API (0: any free one).
    #[arg(long, default_value_t = 8080)]
    pub public_port: u16,
    /// Port of the admin listener (0: any free one).
    #[arg(long, default_value_t = 8081)]
    pub admin_port: u16,
    /// How many executors to run.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub executors: u16,
    /// Exit after the sample: 0 when it completed.
    #[arg(long)]
    pub once: bool,
    /// Start without running the sample.
    #[arg(long, conflicts_with = "once")]
    pub no_sample: bool,
}

/// `lekhika stack`.
#[derive(Debug, Clone, Args)]
pub struct StackArguments {
    /// Where everything is kept; `stack.json` is written here when all is ready.
    #[arg(long, env = "LEKHIKA_DATA_DIR")]
    pub data_dir: PathBuf,
    /// How many gateways.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub gateways: u16,
    /// How many status processes: one leads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub statuses: u16,
    /// How many executors.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub executors: u16,
    /// Executions at once per executor.
    #[arg(long, default_value_t = 64)]
    pub slots: u32,
    /// Leave a process that died dead (otherwise it is started again after a second).
    #[arg(long)]
    pub no_restart: bool,
    /// Let the database sync its log to the disk, as in production (off: quicker tests, same survival of a kill).
    #[arg(long)]
    pub durable: bool,
}

/// `lekhika simulator`.
#[derive(Debug, Clone, Args)]
pub struct SimulatorArguments {
    /// Where to listen.
    #[arg(long, env = "LEKHIKA_SIMULATOR_ADDR", default_value = "127.0.0.1:8090")]
    pub address: std::net::SocketAddr,
    /// Another seed writes other text.
    #[arg(long, env = "LEKHIKA_SIMULATOR_SEED", default_value_t = 1)]
    pub seed: u64,
}

/// Where the public API is, and the key.
#[derive(Debug, Clone, Args)]
pub struct ClientArguments {
    /// Base URL of the public API.
    #[arg(long, env = "LEKHIKA_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// The API key.
    #[arg(long, env = "LEKHIKA_API_KEY", hide_env_values = true)]
    pub key: String,
}

/// `lekhika run`.
#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// The engine's name or id.
    pub engine: String,
    /// A JSON file with the input object.
    #[arg(long)]
    pub input: PathBuf,
    /// Where to save the files.
    #[arg(long, default_value = "lekhika-out")]
    pub out: PathBuf,
    /// Where and as whom.
    #[command(flatten)]
    pub client: ClientArguments,
}

/// `lekhika watch`.
#[derive(Debug, Clone, Args)]
pub struct WatchArguments {
    /// The execution, `exec_..`.
    pub id: String,
    /// Where to save the files.
    #[arg(long, default_value = "lekhika-out")]
    pub out: PathBuf,
    /// Where and as whom.
    #[command(flatten)]
    pub client: ClientArguments,
}

/// `lekhika flow ..`.
#[derive(Debug, Subcommand)]
pub enum FlowCommand {
    /// Explains every problem of a flow document; exits 0 when there is none.
    Validate {
        /// A YAML or JSON file.
        file: PathBuf,
        /// Ask this platform's admin listener too, whether the models exist.
        #[arg(long)]
        server: Option<String>,
        /// The admin token for `--server`.
        #[arg(long, env = "LEKHIKA_ADMIN_TOKEN", hide_env_values = true)]
        token: Option<String>,
    },
}

/// Where the admin listener is, and the token.
#[derive(Debug, Clone, Args)]
pub struct AdminArguments {
    /// Base URL of the admin listener.
    #[arg(long, env = "LEKHIKA_ADMIN_URL", default_value = "http://127.0.0.1:8081")]
    pub url: String,
    /// A JWT of the admin listener; `lekhika admin token` makes one.
    #[arg(long, env = "LEKHIKA_ADMIN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// `lekhika admin ..`.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Makes an admin token from `LEKHIKA_ADMIN_SECRET`.
    Token {
        /// What it may do.
        #[arg(long, value_enum, default_value_t = RoleArgument::Operator)]
        role: RoleArgument,
        /// How long it lives, in hours.
        #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=8760))]
        hours: u32,
    },
    /// Makes or changes a level.
    Level {
        /// Its name.
        name: String,
        /// Share in the fair queue.
        #[arg(long, default_value_t = 1.0)]
        weight: f64,
        /// Executions at once per user (none: no limit).
        #[arg(long)]
        max_running: Option<u32>,
        /// Queued executions per user (none: no limit).
        #[arg(long)]
        max_queued: Option<u32>,
        /// Requests per minute per user (none: no limit).
        #[arg(long)]
        requests_per_minute: Option<u32>,
        /// The highest priority that may be asked for.
        #[arg(long, default_value = "urgent")]
        max_priority: String,
    },
    /// Makes or moves a user.
    User {
        /// Their name.
        name: String,
        /// The level's name.
        #[arg(long)]
        level: String,
    },
    /// Deploys a flow as the next version of its engine.
    Deploy {
        /// A YAML or JSON file.
        file: PathBuf,
    },
    /// Assigns an engine to a user or a level.
    Assign {
        /// The engine, `eng_..`.
        engine: String,
        /// The user, `usr_..`.
        #[arg(long, conflicts_with = "level", required_unless_present = "level")]
        user: Option<String>,
        /// The level, `lvl_..`.
        #[arg(long)]
        level: Option<String>,
    },
    /// Switches an engine on or off.
    Engine {
        /// What to do.
        #[command(subcommand)]
        command: EngineCommand,
    },
    /// Works on API keys.
    Key {
        /// What to do.
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Lists the newest executions of all users.
    Executions {
        /// Only this state.
        #[arg(long)]
        status: Option<String>,
        /// At most so many, 1 to 100.
        #[arg(long)]
        page_size: Option<u32>,
        /// Where an earlier answer's `nextPageToken` leads.
        #[arg(long)]
        page_token: Option<String>,
    },
    /// Lists the executors.
    Executors,
    /// Runs the invariant query; exits 0 when it finds nothing.
    Invariants,
}

/// The whole command line, for tests of the documents that name its commands.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}

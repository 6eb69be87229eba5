//! Measures the platform in its distributed form, and the raw limits of the machine in the same run.
//!
//! Read in this order: `arguments`, `run` (which scenario runs on which stack), `scenarios` (one file each), `load` and
//! `sustained` (the clients), then what they stand on: `stack`, `engines`, `http`, `database`, `processes`, `report`,
//! `signals`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the table is what this program is for")]

mod arguments;
mod database;
mod engines;
mod http;
mod load;
mod processes;
mod report;
mod run;
mod scenarios;
mod signals;
mod stack;
mod sustained;

use anyhow::Context as _;
use clap::Parser as _;

use crate::{arguments::Arguments, report::Report, signals::Signals};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();

    let mut report = Report::default();
    let measured = run::all(&arguments, &mut report, &mut Signals::listen()?).await;

    // Also after an error: what was measured before it took minutes.
    println!("{}", report.table());
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report.json())?;
        std::fs::write(path, text).with_context(|| format!("writing `{}`", path.display()))?;
    }
    measured
}

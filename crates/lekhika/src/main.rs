//! One command for every role, the client and the operator. See `lekhika --help`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = lekhika::cli::Arguments::parse();
    lekhika::limits::raise_open_files();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(lekhika::commands::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the binary speaks to a person")]
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("lekhika: {error:#}");
    ExitCode::FAILURE
}

//! The `sluicegate` program: parses the command line, does what it says, prints what went wrong.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use sluicegate::cli::{self, Cli};

/// Requests allocate on one thread and free on another, which the system's allocator does not like.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Ends the process with 2 and a hint if the command line makes no sense.
    let cli = Cli::parse();
    let result = run(cli);
    match result {
        Ok(code) => code,
        Err(error) if cli::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  caused by: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(cli::run(cli));
    // A thread that still waits for standard input must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

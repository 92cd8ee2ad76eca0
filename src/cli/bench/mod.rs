//! `sluicegate bench`: measures a gateway, or a ledger without one, under a load.
//!
//! [`load`] says what is sent and when, [`drive`] sends it, a target takes it: [`mod@run`] a gateway over HTTP, [`mod@direct`] a ledger. What
//! happens is taken down by the [`recorder`], becomes a [`report`], and is shown as a [`table`], as JSON and as
//! HTML ([`html`], [`plot`]). [`mod@compare`] sets two reports side by side.
//!
//! Nothing is kept but the files that were asked for. A run that is killed leaves the transactions that it handed in.

mod call;
mod compare;
mod direct;
mod drive;
mod follow;
mod html;
mod keys;
mod load;
mod plot;
mod recorder;
mod report;
mod run;
mod session;
mod table;

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Measure a gateway under a load
///
/// A load generator for any running gateway, and what compares its reports.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Direct(direct::DirectArgs),
    Compare(compare::CompareArgs),
}

pub(super) async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Run(args) => run::run(args).await,
        Command::Direct(args) => direct::run(args).await,
        Command::Compare(args) => compare::run(&args),
    }
}

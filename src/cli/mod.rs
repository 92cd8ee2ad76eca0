//! The command line: what can be typed, and which file does it.
//!
//! `serve`, `check-config`, `store`, `archive`, `backup`, `restore` and `migrate` work on this machine's configuration; `devnet`
//! is a ledger to try them with; `bench` measures; `openapi` describes the HTTP API; `submit`, `get`, `list` and `ready` are a client of the HTTP API and need nothing but
//! its address.

mod answer;
mod archive;
mod backup;
mod bench;
mod bulk;
mod check_config;
mod client;
mod devnet;
mod get;
mod json;
mod keys;
mod list;
mod migrate;
mod ndjson;
mod openapi;
mod print;
mod ready;
mod restore;
mod serve;
mod store;
mod submit;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use archive::ArchiveArgs;
pub use backup::BackupArgs;
pub use bench::BenchArgs;
pub use devnet::DevnetArgs;
pub use get::GetArgs;
pub use keys::KeysArgs;
pub use list::ListArgs;
pub use migrate::MigrateArgs;
pub use print::is_closed_pipe;
pub use ready::ReadyArgs;
pub use restore::RestoreArgs;
pub use serve::ServeArgs;
pub use store::StoreArgs;
pub use submit::SubmitArgs;

use client::Client;

/// An asynchronous transaction gateway for ledgers: accept at once, settle exactly once.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Try it:
  sluicegate serve                      # a gateway with a simulated ledger, in this directory
  sluicegate submit --contract counter --function Add --arg visits --arg 1 --wait
  sluicegate list

Every command explains itself: sluicegate help submit";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(ServeArgs),
    /// Check the configuration and show what every setting ends up as
    ///
    /// Reads the file and the SLUICEGATE__SECTION__KEY variables as `serve` would. Prints every setting with
    /// its value and where the value comes from, or all mistakes at once with their lines. Exit status: 0 if
    /// the configuration is valid, 1 if not.
    #[command(after_help = "Examples:
  sluicegate check-config
  sluicegate check-config --config /etc/sluicegate/config.toml
  SLUICEGATE__HTTP__LISTEN=0.0.0.0:8080 sluicegate check-config")]
    CheckConfig(ConfigArgs),
    Submit(SubmitArgs),
    Get(GetArgs),
    List(ListArgs),
    Ready(ReadyArgs),
    Store(StoreArgs),
    Keys(KeysArgs),
    Archive(ArchiveArgs),
    Backup(BackupArgs),
    Restore(RestoreArgs),
    Devnet(DevnetArgs),
    Bench(BenchArgs),
    Migrate(MigrateArgs),
    /// Print the description of the HTTP API (OpenAPI 3.1)
    ///
    /// As a gateway with the built-in settings serves it at /openapi.json: for whatever makes clients of it.
    Openapi,
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Configuration file [default: config.toml here if there is one, else built-in values]
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
}

/// Where a gateway listens if nobody says otherwise.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Where the gateway is, and what opens it.
#[derive(Debug, Args)]
pub struct AddressArgs {
    /// Address of the gateway
    #[arg(long, value_name = "URL", env = "SLUICEGATE_URL", default_value = DEFAULT_URL, value_parser = client::base_url)]
    pub url: String,
    /// API key or token, if the gateway asks for one; best by the variable, for others see what is typed
    #[arg(long, value_name = "KEY", env = "SLUICEGATE_KEY", hide_env_values = true)]
    pub key: Option<String>,
}

/// Where the gateway is, and how patient its client.
#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// Where it is.
    #[command(flatten)]
    pub address: AddressArgs,
    /// How often a request is tried while the gateway cannot be reached or is busy (503, 429)
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub tries: u32,
}

/// Does what was typed.
///
/// # Errors
/// Whatever keeps it from being done, with its causes. The exit code tells how the thing itself went: a
/// transaction that failed is no error of this program, yet makes `submit` end with 1.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve(args) => serve::run(args).await,
        Command::CheckConfig(args) => check_config::run(&args),
        Command::Submit(args) => submit::run(args).await,
        Command::Get(args) => get::run(&args).await,
        Command::List(args) => list::run(&args).await,
        Command::Ready(args) => ready::run(args).await,
        Command::Store(args) => store::run(&args),
        Command::Keys(args) => keys::run(args).await,
        Command::Archive(args) => archive::run(args).await,
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Devnet(args) => devnet::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Migrate(args) => migrate::run(&args).await,
        Command::Openapi => openapi::run(),
    }
}

/// Reads `key=value`.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE, such as order=4711".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wait_needs_no_number() {
        for (wait, expected) in [
            (&["--wait"][..], Some(None)),
            (&["--wait", "5"], Some(Some(5))),
            (&[], None),
        ] {
            let words = ["sluicegate", "submit", "--contract", "c", "--function", "f"]
                .iter()
                .chain(wait);
            let cli = Cli::try_parse_from(words).expect("valid");
            let Command::Submit(args) = cli.command else {
                panic!("not a submit")
            };
            assert_eq!(args.wait, expected);
        }
    }

    #[test]
    fn a_submit_is_one_call_or_a_file() {
        let parse =
            |words: &[&str]| Cli::try_parse_from(["sluicegate", "submit"].iter().chain(words)).map(|_| ());
        assert!(parse(&["--file", "x.ndjson"]).is_ok());
        assert!(parse(&["--contract", "c"]).is_err());
        assert!(parse(&[]).is_err());
        assert!(parse(&["--file", "x", "--contract", "c", "--function", "f"]).is_err());
        assert!(
            parse(&[
                "--contract",
                "c",
                "--function",
                "f",
                "--arg",
                "a",
                "--args-json",
                "[]"
            ])
            .is_err()
        );
    }
}

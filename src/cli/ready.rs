//! `sluicegate ready`: whether a gateway, or a devnet, would take requests now, for probes of containers without a
//! shell.

use std::process::ExitCode;

use clap::Args;

use super::client::base_url;
use super::{AddressArgs, Client, DEFAULT_URL, GatewayArgs, json, print};

/// Ask a gateway whether it would accept a request now
///
/// Prints what it says of itself. Exit status: 0 if it is ready, 1 if it is not or cannot be reached.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluicegate ready
  sluicegate ready --url http://gateway.example:8080
  sluicegate ready --url http://127.0.0.1:7052      (a devnet with --control 127.0.0.1:7052)")]
pub struct ReadyArgs {
    /// Address of the gateway
    #[arg(long, value_name = "URL", env = "SLUICEGATE_URL", default_value = DEFAULT_URL, value_parser = base_url)]
    url: String,
}

pub(super) async fn run(args: ReadyArgs) -> anyhow::Result<ExitCode> {
    // A probe is about now; whoever asks repeats it.
    let gateway = GatewayArgs {
        address: AddressArgs {
            url: args.url,
            key: None,
        },
        tries: 1,
    };
    let answer = Client::new(&gateway)?.get_json("/readyz", &[]).await?;
    print::line(json::pretty(&answer))?;
    Ok(ExitCode::SUCCESS)
}

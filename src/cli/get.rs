//! `sluicegate get`: one transaction.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::{Client, GatewayArgs, json, print};
use crate::domain::TransactionId;

/// Show a transaction
///
/// Prints the record as JSON. Exit status: 0 if there is such a transaction, whatever became of it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluicegate get 01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f
  sluicegate get 01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f --wait 30
  sluicegate get 01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f --attempts | jq .")]
pub struct GetArgs {
    /// The id that `submit` or the API gave
    id: TransactionId,
    /// Wait until it is done or failed, but no longer than this
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    wait: Option<u32>,
    /// Print the history of its attempts as a second JSON document
    #[arg(long)]
    attempts: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
}

pub(super) async fn run(args: &GetArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.gateway)?;
    let id = args.id.to_string();
    let deadline = args
        .wait
        .map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    let followed = match deadline {
        Some(_) => client.follow(&id, deadline).await?,
        None => None,
    };
    let answer = match followed {
        Some(answer) => answer,
        None => client.get(&id, Duration::ZERO).await?,
    };
    print::line(json::pretty(&answer.json))?;
    if args.attempts {
        let attempts = client
            .get_json(&format!("/v1/transactions/{id}/attempts"), &[])
            .await?;
        print::line(json::pretty(&attempts))?;
    }
    Ok(ExitCode::SUCCESS)
}

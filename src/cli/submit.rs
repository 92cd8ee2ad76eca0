//! `sluicegate submit`: one transaction from the command line, or many from a file.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use reqwest::header::HeaderValue;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Client, GatewayArgs, bulk, json, key_value, print};

/// Hand in a transaction, or a file of them
///
/// One transaction is described by options; its record is printed as JSON. Many come from a file with one
/// request per line, each a JSON object as `POST /v1/transactions` takes it; a summary is printed. A key
/// "idempotency_key" in a line is taken out and sent as the header. Without one, every request gets a random
/// key, which makes the retries of this run safe, but not a second run: give keys of your own for that.
///
/// While the gateway cannot be reached or is busy, a request is tried again, with the same key. A line that
/// is wrong or refused is reported with its number and does not stop the others.
///
/// Exit status: 0 if everything was accepted (and, with --wait, done); 1 if anything was refused, failed or
/// is unsettled after --wait; 2 if the command line makes no sense; 130 after Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluicegate submit --ledger main --contract basic --function CreateAsset --arg asset1 --arg blue
  sluicegate submit --contract token --function Mint --args-json '[\"alice\", 100.50]' --wait 30
  sluicegate submit --contract basic --function CreateAsset --arg a7 --idempotency-key order-4711 --metadata order=4711
  sluicegate submit --file orders.ndjson --concurrency 64 --wait
  generate-orders | sluicegate submit --file -

A line of a file:
  {\"ledger\":\"main\",\"contract\":\"basic\",\"function\":\"CreateAsset\",\"args\":[\"a1\"],\"idempotency_key\":\"order-1\"}")]
pub struct SubmitArgs {
    /// The ledger, as the gateway's configuration names it
    #[arg(long, value_name = "NAME", default_value = "main", conflicts_with = "file")]
    ledger: String,
    /// The contract (chaincode) to call [default: the ledger's default_contract]
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    contract: Option<String>,
    /// Its function
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present = "file",
        conflicts_with = "file"
    )]
    function: Option<String>,
    /// An argument, as a string; repeat it for more
    #[arg(long = "arg", value_name = "TEXT", conflicts_with_all = ["file", "args_json"], allow_hyphen_values = true)]
    args: Vec<String>,
    /// All arguments, as a JSON array; numbers keep every digit
    #[arg(long, value_name = "JSON", conflicts_with = "file")]
    args_json: Option<String>,
    /// A label, shown and searchable, never sent to the ledger; repeat it for more
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, conflicts_with = "file")]
    metadata: Vec<(String, String)>,
    /// Repeating a request with the same key has no second effect [default: a random key]
    #[arg(long, value_name = "KEY", value_parser = idempotency_key, conflicts_with = "file")]
    idempotency_key: Option<HeaderValue>,
    /// Do not submit it later than so long after it was accepted
    #[arg(long, value_name = "SECONDS", conflicts_with = "file")]
    expires_in: Option<u32>,
    /// File with one request per line; `-` is standard input
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// How many requests of a file are under way at the same time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096), requires = "file")]
    concurrency: u16,
    /// Wait until everything is done or failed, or so long since the start of this command
    #[arg(long, value_name = "SECONDS", num_args = 0..=1)]
    pub(super) wait: Option<Option<u32>>,
    #[command(flatten)]
    gateway: GatewayArgs,
}

/// The body of `POST /v1/transactions`.
#[derive(Serialize)]
struct Body<'a> {
    ledger: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    contract: Option<&'a str>,
    function: &'a str,
    args: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_seconds: Option<u32>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    metadata: serde_json::Map<String, serde_json::Value>,
}

pub(super) async fn run(args: SubmitArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.gateway)?;
    let wait = args.wait.map(|seconds| Wait {
        deadline: seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds.into())),
    });
    match &args.file {
        Some(file) => bulk::run(&client, file, args.concurrency.into(), wait).await,
        None => one(&client, &args, wait).await,
    }
}

/// Wait for the end, or until the deadline if there is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    pub(super) deadline: Option<Instant>,
}

async fn one(client: &Client, args: &SubmitArgs, wait: Option<Wait>) -> anyhow::Result<ExitCode> {
    let key = args.idempotency_key.clone().unwrap_or_else(random_key);
    let mut answer = client.submit(body(args)?, &key).await?;
    if let Some(wait) = wait
        && !answer.record.is_at_rest()
    {
        let id = answer.record.id.clone();
        answer = client.follow(&id, wait.deadline).await?.unwrap_or(answer);
    }
    print::line(json::pretty(&answer.json))?;
    let fine = match wait {
        Some(_) => answer.record.status == "done",
        None => answer.record.status != "failed",
    };
    Ok(if fine {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn body(args: &SubmitArgs) -> anyhow::Result<String> {
    let list = match &args.args_json {
        Some(json) => serde_json::from_str(json)
            .map_err(|error| anyhow::anyhow!("--args-json is not a JSON array: {error}"))?,
        None => args
            .args
            .iter()
            .map(serde_json::value::to_raw_value)
            .collect::<Result<_, _>>()?,
    };
    Ok(serde_json::to_string(&Body {
        ledger: &args.ledger,
        contract: args.contract.as_deref(),
        function: args.function.as_deref().unwrap_or_default(),
        args: list,
        expires_in_seconds: args.expires_in,
        metadata: args
            .metadata
            .iter()
            .map(|(key, value)| (key.clone(), value.clone().into()))
            .collect(),
    })?)
}

/// Checks that a key can be sent as a header.
pub(super) fn idempotency_key(text: &str) -> Result<HeaderValue, String> {
    let printable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    match HeaderValue::from_str(text) {
        Ok(value) if printable => Ok(value),
        _ => Err("an idempotency key is made of one or more printable ASCII characters".to_owned()),
    }
}

/// A key that nobody else uses.
pub(super) fn random_key() -> HeaderValue {
    let key = Uuid::now_v7().to_string();
    // A UUID is always a valid header; an empty key would be refused, not ignored.
    HeaderValue::from_str(&key).unwrap_or(HeaderValue::from_static(""))
}

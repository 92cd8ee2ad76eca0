//! `sluicegate devnet`: runs a Fabric network for development.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum, value_parser};

use super::print;
use super::serve::{VERSION, told_to_stop};
use crate::app::devnet::{self, Devnet, DevnetSettings};
use crate::config::{LogSettings, SimulatorSettings};
use crate::devnet::{CrashPoint, Fault, NetworkSettings, Policy};
use crate::telemetry;
use crate::telemetry::otlp::LogPush;

/// The file in the devnet's folder that `sluicegate serve --config` takes as it is; written at every start.
const CONFIG: &str = "gateway.toml";

/// Run a Fabric network for development, in one process
///
/// Serves a peer's Gateway and Deliver services over gRPC, so that gateways and Fabric's own client libraries work with
/// it as with a real network, and prints the section of config.toml that reaches it, which is also in gateway.toml in
/// its folder: `sluicegate serve --config devnet-data/gateway.toml`. Chaincodes `basic`, `token` and
/// `counter` are built in. The chain, and the certificates and keys that it makes at its first start, are in its
/// folder. SIGTERM or Ctrl-C stops it in an orderly way: what it took is put into a block first. It is made for
/// development and tests, and whoever can read its folder may use it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluicegate devnet
  sluicegate devnet --listen 127.0.0.1:7061 --data /tmp/devnet
  sluicegate devnet --orgs 3 --policy all
  sluicegate devnet --batch-timeout-ms 2000 --max-message-count 500
  sluicegate devnet --control 127.0.0.1:7052 --fault '{\"method\": \"submit\", \"action\": \"drop_reply\", \"count\": 1}'

Faults (--fault at the start, POST /faults at the address of --control while it runs):
  method       evaluate, endorse, submit, commit_status, chaincode_events, deliver, deliver_filtered,
               deliver_with_private_data
  action       refuse       do not execute it; with code (a gRPC code as a number), message, details
               close_before do not execute it and close the connection
               delay        execute it after so many ms
               drop_reply   execute it and never answer
               close_after  execute it and close the connection
  count        for so many calls; until it is cleared, if left out
  probability  for this share of the calls, from 0 to 1
Points of --crash-at: before-endorse-reply, before-order, before-submit-reply, after-order-before-block,
after-block-before-reply. docs/DEVNET.md has more.")]
pub struct DevnetArgs {
    /// Address to listen on; port 0 lets the system choose
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7051")]
    listen: SocketAddr,
    /// Directory of the chain, the certificates and the keys; made if it is missing
    #[arg(long, value_name = "PATH", default_value = "devnet-data")]
    data: PathBuf,
    /// A block is cut this long after its first transaction at the latest
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = value_parser!(u64).range(1..=60_000))]
    batch_timeout_ms: u64,
    /// A block is cut as soon as it holds so many transactions
    #[arg(long, value_name = "N", default_value = "10", value_parser = block_size)]
    max_message_count: NonZeroU32,
    /// How many organisations there are: Org1MSP and so on
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u8).range(1..=3))]
    orgs: u8,
    /// How many organisations have to endorse a transaction
    #[arg(long, value_enum, default_value = "majority")]
    policy: PolicyArg,
    /// Name of the channel
    #[arg(long, value_name = "NAME", default_value = "mychannel")]
    channel: String,
    /// Calls of the Gateway service that may run at once
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = value_parser!(u32).range(1..=100_000))]
    gateway_limit: u32,
    /// Serve without TLS
    #[arg(long)]
    no_tls: bool,
    /// Another name or address for the TLS certificate, beside localhost and the address of --listen; repeatable
    #[arg(long, value_name = "NAME")]
    tls_name: Vec<String>,
    /// Address of the control API, which makes faults and tells what is in the chain; port 0 lets the system choose
    #[arg(long, value_name = "ADDR")]
    control: Option<SocketAddr>,
    /// A fault from the start on, as JSON; repeatable
    #[arg(long, value_name = "JSON", value_parser = Fault::parse)]
    fault: Vec<Fault>,
    /// Abort the process when it first gets to this point
    #[arg(long, value_name = "POINT")]
    crash_at: Option<CrashPoint>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PolicyArg {
    /// One, whichever it is
    Any,
    /// More than half of them
    Majority,
    /// Every one
    All,
}

impl From<PolicyArg> for Policy {
    fn from(policy: PolicyArg) -> Self {
        match policy {
            PolicyArg::Any => Self::Any,
            PolicyArg::Majority => Self::Majority,
            PolicyArg::All => Self::All,
        }
    }
}

fn block_size(text: &str) -> Result<NonZeroU32, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number: &NonZeroU32| number.get() <= 100_000);
    number.ok_or_else(|| "write a whole number from 1 to 100000".to_owned())
}

pub(super) async fn run(args: DevnetArgs) -> anyhow::Result<ExitCode> {
    let log = LogSettings::default();
    telemetry::start_logging(&log.level, log.format, &LogPush::default())?;
    let settings = DevnetSettings {
        listen: args.listen,
        folder: args.data,
        network: NetworkSettings {
            organisations: args.orgs,
            policy: args.policy.into(),
            channel: args.channel,
            gateway_limit: args.gateway_limit as usize,
            tls: !args.no_tls,
            tls_names: args.tls_name,
            blocks: SimulatorSettings {
                batch_timeout: Duration::from_millis(args.batch_timeout_ms),
                max_message_count: args.max_message_count,
            },
            faults: args.fault,
            crash_at: args.crash_at,
        },
        control: args.control,
    };
    let told_to_stop = told_to_stop()?;
    let devnet = devnet::build(&settings).await?;
    let section = section(&devnet, &settings);
    let config = settings.folder.join(CONFIG);
    std::fs::write(&config, &section).with_context(|| format!("write {}", config.display()))?;
    print::greeting(greeting(&devnet, &settings, &config, &section));
    devnet
        .run(async move {
            told_to_stop.await;
            tracing::info!("stopping: storing what was taken");
        })
        .await?;
    Ok(ExitCode::SUCCESS)
}

fn scheme(network: &NetworkSettings) -> &'static str {
    if network.tls { "https" } else { "http" }
}

fn greeting(devnet: &Devnet, settings: &DevnetSettings, config: &Path, section: &str) -> String {
    let network = &settings.network;
    let address = devnet.address();
    let mut text = format!(
        "Sluicegate devnet {VERSION} listens on {}://{address}\n  chain    {} ({} blocks)\n  blocks   up to {} transactions or {} ms\n  channel  {}, {} organisation{}, endorsed by {}\n",
        scheme(network),
        settings.folder.display(),
        devnet.height(),
        network.blocks.max_message_count,
        network.blocks.batch_timeout.as_millis(),
        network.channel,
        network.organisations,
        if network.organisations == 1 { "" } else { "s" },
        network.policy,
    );
    if let Some(control) = devnet.control_address() {
        text += &format!("  control  http://{control}\n");
    }
    if !address.ip().is_loopback() {
        text += "  warning  made for development; do not let others reach this address\n";
    }
    text + &format!(
        "Try it (Ctrl-C stops the devnet):\n  sluicegate serve --config {}\nor put this into the config.toml of a gateway:\n\n{section}",
        config.display()
    )
}

/// The section of a gateway's configuration that reaches the devnet.
fn section(devnet: &Devnet, settings: &DevnetSettings) -> String {
    let network = &settings.network;
    let folder = std::path::absolute(&settings.folder).unwrap_or_else(|_| settings.folder.clone());
    let text = |text: &str| toml::Value::from(text).to_string();
    let file = |name: &str| text(&folder.join(name).to_string_lossy());
    let mut section = format!(
        "[ledgers.main]\nkind = \"fabric\"\npeers = [{}]\nchannel = {}\nmsp_id = \"Org1MSP\"\ncertificate = {}\nprivate_key = {}\n",
        text(&format!("{}://{}", scheme(network), reachable(devnet.address()))),
        text(&network.channel),
        file("org1/user.pem"),
        file("org1/user.key"),
    );
    if network.tls {
        section += &format!("tls_ca = {}\n", file("tls-ca.pem"));
    }
    section + "default_contract = \"counter\"\n"
}

/// Where a process on this machine reaches it.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut reachable = address;
    if address.ip().is_unspecified() {
        reachable.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    reachable
}

//! `sluicegate devnet`: runs a simulated ledger for gateways to share.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, value_parser};

use super::print;
use super::serve::{VERSION, told_to_stop};
use crate::app::devnet::{self, Devnet, DevnetSettings};
use crate::config::{LogSettings, SimulatorSettings};
use crate::telemetry;

/// Run a simulated ledger that several gateways can share
///
/// The simulator that a gateway has built in, as a process of its own: it outlives the gateways. Its chain is
/// durable in its folder. Gateways reach it with `url` in the section of their ledger. SIGTERM or Ctrl-C stops it
/// in an orderly way: what it took is put into a block first. It is made for development and tests, and
/// anybody who reaches its address may use it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluicegate devnet
  sluicegate devnet --listen 127.0.0.1:7061 --data /tmp/devnet
  sluicegate devnet --batch-timeout-ms 2000 --max-message-count 500
  SLUICEGATE__LEDGERS__MAIN__URL=http://127.0.0.1:7060 sluicegate serve")]
pub struct DevnetArgs {
    /// Address to listen on; port 0 lets the system choose
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7060")]
    listen: SocketAddr,
    /// Directory of the chain; made if it is missing
    #[arg(long, value_name = "PATH", default_value = "devnet-data")]
    data: PathBuf,
    /// A block is cut this long after its first transaction at the latest
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = value_parser!(u64).range(1..=60_000))]
    batch_timeout_ms: u64,
    /// A block is cut as soon as it holds so many transactions
    #[arg(long, value_name = "N", default_value = "10", value_parser = block_size)]
    max_message_count: NonZeroU32,
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
    telemetry::start_logging(&log.level, log.format)?;
    let settings = DevnetSettings {
        listen: args.listen,
        folder: args.data,
        blocks: SimulatorSettings {
            batch_timeout: Duration::from_millis(args.batch_timeout_ms),
            max_message_count: args.max_message_count,
        },
    };
    let told_to_stop = told_to_stop()?;
    let devnet = devnet::build(&settings).await?;
    print::greeting(greeting(&devnet, &settings));
    devnet
        .run(async move {
            told_to_stop.await;
            tracing::info!("stopping: storing what was taken");
        })
        .await?;
    Ok(ExitCode::SUCCESS)
}

fn greeting(devnet: &Devnet, settings: &DevnetSettings) -> String {
    let address = devnet.address();
    let mut text = format!(
        "Sluicegate devnet {VERSION} listens on http://{address}\n  chain    {} ({} blocks)\n  blocks   up to {} transactions or {} ms\n",
        settings.folder.display(),
        devnet.height(),
        settings.blocks.max_message_count,
        settings.blocks.batch_timeout.as_millis(),
    );
    if !address.ip().is_loopback() {
        text += "  warning  anybody who reaches this address may use this ledger\n";
    }
    text + &format!(
        "Try it (Ctrl-C stops the devnet):\n  SLUICEGATE__LEDGERS__MAIN__URL=http://{address} sluicegate serve"
    )
}

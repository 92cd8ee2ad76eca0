//! `sluicegate restore`: makes the embedded store from a backup.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::backup::bar;
use super::{ConfigArgs, print};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, StoreSettings};
use crate::domain::Status;
use crate::store::embedded::{self, BackupReader, DataFolder, Identities, Inventory};

/// Make the embedded store from a backup (there must be none, and the gateway must be stopped)
///
/// The store appears once all of the backup has been read, checked and written to the disk. It may use another engine
/// (store.engine) than the one that was copied. What was not settled when the backup was made may be on the ledger since:
/// the gateway asks the ledger before it submits any of it, and submits nothing that the ledger has. Exit status: 0 if
/// the store is in place.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluicegate restore gateway.backup
  sluicegate restore gateway.backup --config /etc/sluicegate/config.toml
  sluicegate restore gateway.backup --check")]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    /// Read and check all of the backup, tell what is in it, and change nothing
    #[arg(long)]
    check: bool,
    /// Go on although the gateway's identity on a ledger is not the one of the backup: what was submitted after the
    /// backup, under another identity than the one it is started with, may then be submitted again
    #[arg(long, conflicts_with = "check")]
    other_identity: bool,
}

pub(super) fn run(args: &RestoreArgs) -> anyhow::Result<ExitCode> {
    let reading = || format!("read {}", args.file.display());
    let file = std::fs::File::open(&args.file).with_context(reading)?;
    let bar = bar(BackupReader::open(file).with_context(reading)?.header().records);
    let mut progress = |records| bar.set_position(records);
    if args.check {
        let inventory = embedded::verify_backup(&args.file, &mut progress).with_context(reading)?;
        bar.finish_and_clear();
        show(&inventory)?;
        print::line("all of it can be read")?;
        return Ok(ExitCode::SUCCESS);
    }
    let StoreSettings::Embedded(settings) = config::load(args.config.config.as_deref())?.settings.store
    else {
        anyhow::bail!(
            "store.kind is not \"embedded\": restore PostgreSQL with its own tools; what the ledger has is not submitted again after that either"
        );
    };
    let folder = DataFolder::hold(&settings.path, settings.engine)?;
    let identities = match args.other_identity {
        true => Identities::MayDiffer,
        false => Identities::MustMatch,
    };
    let restored = embedded::restore(
        &folder,
        settings.cache_bytes,
        &args.file,
        SystemClock.now(),
        identities,
        &mut progress,
    );
    let inventory = restored.with_context(|| format!("restore {}", args.file.display()))?;
    bar.finish_and_clear();
    show(&inventory)?;
    print::line(format_args!("they are in {}", folder.store().display()))?;
    if inventory
        .counts
        .keys()
        .any(|(_, status)| *status == Status::Pending)
    {
        print::line("the ledgers are asked about the pending ones before anything is submitted")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(inventory: &Inventory) -> std::io::Result<()> {
    let header = &inventory.header;
    print::line(format_args!(
        "a backup that was begun at {} by sluicegate {}",
        header.made_at, header.program
    ))?;
    for ((ledger, status), count) in &inventory.counts {
        print::line(format_args!("{count:>10} {} on {ledger}", status.as_str()))?;
    }
    if inventory.unreadable > 0 {
        print::line(format_args!(
            "{:>10} could not be read when it was made; run `sluicegate store check` once it is restored",
            inventory.unreadable
        ))?;
    }
    Ok(())
}

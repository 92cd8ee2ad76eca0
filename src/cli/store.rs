//! `sluicegate store`: care for the embedded database while the gateway is stopped.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use indicatif::HumanBytes;

use super::{ConfigArgs, print};
use crate::config::{self, StoreSettings};
use crate::store::embedded::{self, DataFolder, Finding, Report};

/// Check, repair or compact the embedded database (the gateway must be stopped)
///
/// The database is the one of the configuration (store.path and store.engine). Only one process can have it
/// open, so stop the gateway first; the commands refuse to run beside it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluicegate store check
  sluicegate store repair --config /etc/sluicegate/config.toml
  sluicegate store compact

Copy the directory of the database before a repair.")]
pub struct StoreArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Verify every record and index; changes nothing
    ///
    /// Checks the checksum of every record and that each index and queue mark agrees with the records.
    /// Exit status: 0 if all is well, 1 if something is damaged.
    Check(ConfigArgs),
    /// Rebuild indexes, idempotency entries and queue marks from the records
    ///
    /// The records are the truth and stay as they are. One that is damaged itself cannot be repaired: it is
    /// listed, and its bytes are moved to a file beside the database. If the database file is damaged, a new one
    /// is made of what can be read of it. Settled transactions are kept then; those that were not settled may have
    /// gone on since, so they are listed for a person and not submitted again. The damaged file is kept. Exit
    /// status: 0 if every record is there afterwards, 1 if a person has to look at some.
    Repair(ConfigArgs),
    /// Rewrite the database without the space that removed records left
    ///
    /// Needs free space for a second copy; the old one is replaced only when the new one is complete.
    Compact(ConfigArgs),
}

/// So many findings are printed; the rest is counted.
const SHOWN: usize = 100;

pub(super) fn run(args: &StoreArgs) -> anyhow::Result<ExitCode> {
    let (Action::Check(at) | Action::Repair(at) | Action::Compact(at)) = &args.action;
    let StoreSettings::Embedded(settings) = config::load(at.config.as_deref())?.settings.store else {
        anyhow::bail!(
            "store.kind is not \"embedded\": PostgreSQL has its own tools to check and compact a database"
        );
    };
    if !settings.path.exists() {
        anyhow::bail!(
            "there is no data folder {}; is store.path right?",
            settings.path.display()
        );
    }
    let folder = DataFolder::hold(&settings.path, settings.engine)?;
    let sound = match &args.action {
        Action::Check(_) => {
            let report = embedded::check(&folder, settings.cache_bytes)?;
            show(&report)?;
            if report.findings.is_empty() {
                print::line("all is well")?;
            } else {
                print::line("run `sluicegate store repair` to mend it; copy the data folder first")?;
            }
            report.findings.is_empty()
        }
        Action::Repair(_) => {
            // An engine that panics over a damaged file is caught; its own words would only frighten.
            std::panic::set_hook(Box::new(|panic| {
                let place = panic.location().map_or_else(String::new, ToString::to_string);
                // Standard error may be closed; there is nobody else to tell.
                let _written = writeln!(io::stderr(), "the engine gave up on a part of the file ({place})");
            }));
            let report = embedded::repair(&folder, settings.cache_bytes)?;
            show(&report)?;
            if let Some(path) = &report.damaged {
                print::line(format_args!("the damaged database is kept as {}", path.display()))?;
            }
            if let Some(path) = &report.quarantine {
                let what = match report.damaged {
                    Some(_) => "what was set aside is listed in",
                    None => "records that cannot be read were moved to",
                };
                print::line(format_args!("{what} {}", path.display()))?;
            }
            print::line(match (&report.quarantine, report.findings.is_empty()) {
                (_, true) if report.damaged.is_some() => "everything in it could be read, and is settled",
                (_, true) => "there was nothing to mend",
                (None, false) => "all is mended",
                (Some(_), false) => "the rest is mended",
            })?;
            report.quarantine.is_none()
        }
        Action::Compact(_) => {
            let (before, after) = embedded::compact(&folder, settings.cache_bytes)?;
            print::line(format_args!(
                "{} before, {} after",
                HumanBytes(before),
                HumanBytes(after)
            ))?;
            true
        }
    };
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(report: &Report) -> io::Result<()> {
    for finding in report.findings.iter().take(SHOWN) {
        print::line(match finding {
            Finding::Unreadable { id, reason } => format!("record {id} cannot be read: {reason}"),
            Finding::Unsettled { id, what } => format!("record {id} is {what}"),
            Finding::Missing { id } => format!("record {id} lacks an index entry"),
            Finding::Stale { key } => format!("the index entry {key} belongs to no record"),
            Finding::Miscounted { what, stored, actual } => {
                format!("the count of {what} says {stored}, there are {actual}")
            }
        })?;
    }
    if report.findings.len() > SHOWN {
        print::line(format_args!(
            "... and {} more findings",
            report.findings.len() - SHOWN
        ))?;
    }
    for ((ledger, status), count) in &report.counts {
        print::line(format_args!("{count:>10} {} on {ledger}", status.as_str()))?;
    }
    print::line(format_args!("{:>10} records can be read", report.records()))
}

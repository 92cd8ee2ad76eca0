//! `sluicegate archive`: finds records that retention has moved to the archive, and looks whether it is whole.

use std::process::ExitCode;

use anyhow::Context;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use super::{ConfigArgs, key_value, print};
use crate::archive::{self, Archive, ArchiveError, Found, Query};
use crate::config;
use crate::domain::{LedgerName, Status, TenantName, Timestamp, TransactionId};

/// Search and verify the archive of old records
///
/// The archive is the one of the configuration ([archive]). Both commands only read it: no gateway has to run, and one that
/// does is not disturbed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluicegate archive search --id 0195d2c4-7b1a-7c3e-9f10-3a5b6c7d8e9f
  sluicegate archive search --ledger main --status failed --created-from 2026-11-01T00:00:00Z
  sluicegate archive search --metadata order=4711 | jq .result
  sluicegate archive verify --config /etc/sluicegate/config.toml")]
pub struct ArchiveArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Search(Box<SearchArgs>),
    /// Read every object of the archive and check it
    ///
    /// Each has to match the SHA-256 in its name, and to hold as many records, between the same ids, as its name says. Exit
    /// status: 0 if all is well, 1 if something is damaged or the archive cannot be read.
    Verify(ConfigArgs),
}

/// Print archived records that match, one line of JSON for each, oldest first
///
/// Filters are combined: a record is printed if it matches all of them. --id and the two times are fast: the names of
/// objects tell which of them to open. Every object is checked against the SHA-256 in its name before anything of it is
/// printed. Exit status: 0 if everything was searched, whether something was found or not; 1 if the archive cannot be read,
/// or objects are damaged: these are told, and the others are searched all the same.
#[derive(Debug, Args)]
struct SearchArgs {
    /// Only the record with this id
    #[arg(long, value_name = "ID")]
    id: Option<TransactionId>,
    /// Only what the ledger knows by this identifier
    #[arg(long, value_name = "ID")]
    tx_id: Option<String>,
    /// Only with this idempotency key
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Only of this tenant
    #[arg(long, value_name = "NAME", value_parser = tenant)]
    tenant: Option<TenantName>,
    /// Only with this status
    #[arg(long, value_parser = PossibleValuesParser::new([Status::Done.as_str(), Status::Failed.as_str()]))]
    status: Option<String>,
    /// Only for this ledger
    #[arg(long, value_name = "NAME", value_parser = ledger)]
    ledger: Option<LedgerName>,
    /// Only with this label; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Only accepted at this moment or later, such as 2026-11-22T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    created_from: Option<Timestamp>,
    /// Only accepted before this moment
    #[arg(long, value_name = "TIME", value_parser = moment)]
    created_before: Option<Timestamp>,
    /// Print so many at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    config: ConfigArgs,
}

const NAME: &str = "use 1 to 64 of a-z, 0-9, _ and -, starting with a letter or digit";

fn tenant(text: &str) -> Result<TenantName, &'static str> {
    TenantName::new(text).ok_or(NAME)
}

fn ledger(text: &str) -> Result<LedgerName, &'static str> {
    LedgerName::new(text).ok_or(NAME)
}

fn moment(text: &str) -> Result<Timestamp, &'static str> {
    Timestamp::parse_rfc3339(text).ok_or("write a time as RFC 3339 has it, such as 2026-11-22T00:00:00Z")
}

pub(super) async fn run(args: ArchiveArgs) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Search(args) => search(*args).await,
        Action::Verify(config) => verify(&config).await,
    }
}

fn open(config: &ConfigArgs) -> anyhow::Result<Archive> {
    let Some(settings) = config::load(config.config.as_deref())?.settings.archive else {
        anyhow::bail!("there is no archive: set archive.url");
    };
    Archive::open(&settings).context("open the archive")
}

async fn search(args: SearchArgs) -> anyhow::Result<ExitCode> {
    let archive = open(&args.config)?;
    let status = args.status.as_deref();
    let query = Query {
        id: args.id,
        tx_id: args.tx_id,
        idempotency_key: args.idempotency_key,
        tenant: args.tenant,
        status: status.and_then(|name| Status::ALL.into_iter().find(|one| one.as_str() == name)),
        ledger: args.ledger,
        created_from: args.created_from,
        created_before: args.created_before,
        metadata: args.metadata.into_iter().collect(),
    };
    let (mut left, mut damaged) = (args.limit.unwrap_or(u64::MAX), 0);
    let searched = archive::search(&archive, &query, &mut |found| {
        match found {
            Found::Record(line) => {
                print::line(line)?;
                left -= 1;
            }
            Found::Damaged(object, what) => {
                damaged += 1;
                eprintln!("{object}: {what}");
            }
        }
        // There is no second one.
        Ok(left > 0 && (args.id.is_none() || left == args.limit.unwrap_or(u64::MAX)))
    })
    .await;
    ended(searched)?;
    if damaged > 0 {
        anyhow::bail!("objects that cannot be used: {damaged}; what they hold was not searched");
    }
    Ok(ExitCode::SUCCESS)
}

async fn verify(config: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let archive = open(config)?;
    let mut damaged = 0;
    let looked = archive::verify(&archive, &mut |found| {
        if let Found::Damaged(object, what) = found {
            damaged += 1;
            print::line(format_args!("{object}: {what}"))?;
        }
        Ok(true)
    })
    .await;
    let (objects, records) = ended(looked)?;
    print::line(format_args!(
        "{objects} objects with {records} records are right, {damaged} objects are not"
    ))?;
    Ok(match damaged {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// A reader that went away is told as such, not as a fault of the archive.
fn ended<T>(result: Result<T, ArchiveError>) -> anyhow::Result<T> {
    match result {
        Err(ArchiveError::Told(error)) => Err(error.into()),
        other => other.context("read the archive"),
    }
}

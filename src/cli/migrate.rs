//! `sluicegate migrate`: brings the tables in PostgreSQL up to date.

use std::process::ExitCode;

use clap::Args;

use super::{ConfigArgs, print};
use crate::config::{self, StoreSettings};
use crate::store::postgres;

/// Bring the tables of the PostgreSQL database up to date
///
/// The database is the one of the configuration (store.url). `serve` does this by itself unless store.migrate
/// is false; then do it here, with a role that may create tables, before the new version starts. Any number of
/// these may run at once, and beside running gateways. Exit status: 0 if the tables are up to date afterwards.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluicegate migrate
  sluicegate migrate --check
  SLUICEGATE__STORE__URL=postgres://owner@db.example/sluicegate sluicegate migrate")]
pub struct MigrateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Change nothing; exit status 1 if something is outstanding
    #[arg(long)]
    check: bool,
}

pub(super) async fn run(args: &MigrateArgs) -> anyhow::Result<ExitCode> {
    let StoreSettings::Postgres(settings) = config::load(args.config.config.as_deref())?.settings.store
    else {
        anyhow::bail!("store.kind is not \"postgres\": the embedded store needs no migration");
    };
    if args.check {
        let status = postgres::schema_status(&settings).await?;
        for migration in &status.outstanding {
            print::line(format_args!("outstanding: {migration}"))?;
        }
        if !status.outstanding.is_empty() {
            return Ok(ExitCode::FAILURE);
        }
        print::line(format_args!("up to date: schema {}", status.version))?;
        return Ok(ExitCode::SUCCESS);
    }
    let made = postgres::migrate(&settings).await?;
    for migration in &made {
        print::line(format_args!("migrated: {migration}"))?;
    }
    let status = postgres::schema_status(&settings).await?;
    print::line(format_args!("up to date: schema {}", status.version))?;
    Ok(ExitCode::SUCCESS)
}

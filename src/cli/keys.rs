//! `sluicegate keys`: who may call.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{ConfigArgs, print};
use crate::app::{self, KeyOrder};
use crate::auth::{ApiKey, NewKey};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::domain::{TenantName, Timestamp};
use crate::gateway::{Scope, Scopes};

/// Make, list and revoke API keys
///
/// Works on the store that the configuration names, whether the gateway runs or not: an embedded one is asked through a
/// socket in its data folder, so run this as the user that the gateway runs as. From the first key on, nobody gets in without
/// one. Running gateways that share a PostgreSQL store heed a new or revoked key within two seconds.
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key and print it
    ///
    /// The key alone goes to the standard output. It cannot be shown again: what is stored is a hash of it.
    #[command(after_help = "Examples:
  sluicegate keys create --name me --scopes submit,read,operate
  sluicegate keys create --name erp --tenant acme --scopes submit,read --expires-in-days 90
  SLUICEGATE_KEY=$(sluicegate keys create --name ci) sluicegate list")]
    Create {
        /// What to call it
        #[arg(long)]
        name: String,
        /// Whose transactions it sees and makes [default: it sees those of all, and makes those of `default`]
        #[arg(long, value_parser = tenant)]
        tenant: Option<TenantName>,
        /// What it may do: submit, read, operate
        #[arg(long, value_delimiter = ',', default_value = "submit,read", value_parser = scope)]
        scopes: Vec<Scope>,
        /// When it ends [default: never]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3650))]
        expires_in_days: Option<u32>,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// List all keys, newest first
    List {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// End a key for good
    Revoke {
        /// Its identifier: the part between `sg_` and the next `_`
        id: String,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

pub(super) async fn run(args: KeysArgs) -> anyhow::Result<ExitCode> {
    let (order, config) = match args.command {
        KeysCommand::Create {
            name,
            tenant,
            scopes,
            expires_in_days,
            config,
        } => {
            let lasts = expires_in_days.map(|days| Duration::from_secs(u64::from(days) * 24 * 60 * 60));
            let scopes = scopes.into_iter().collect();
            (
                KeyOrder::Create(NewKey {
                    name,
                    tenant,
                    scopes,
                    lasts,
                }),
                config,
            )
        }
        KeysCommand::List { config } => (KeyOrder::List, config),
        KeysCommand::Revoke { id, config } => (KeyOrder::Revoke(id), config),
    };
    let settings = config::load(config.config.as_deref())?.settings;
    let lists = matches!(order, KeyOrder::List);
    let answer = app::manage_keys(&settings, order).await?;
    if lists {
        print::line(format_args!(
            "{:8}  {:20}  {:16}  {:22}  {:24}  NAME",
            "ID", "STATE", "TENANT", "SCOPES", "CREATED"
        ))?;
    }
    for key in &answer.keys {
        match &answer.token {
            Some(token) => {
                eprintln!("The key {} of {}, shown this once:", key.id, described(key));
                print::line(format_args!("{token}"))?;
            }
            None if lists => print::line(format_args!("{}", row(key, SystemClock.now())))?,
            None => print::line(format_args!("The key {} ({}) is revoked.", key.id, key.name))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn described(key: &ApiKey) -> String {
    let tenant = key
        .tenant
        .as_ref()
        .map_or("all tenants".to_owned(), |tenant| format!("tenant {tenant}"));
    format!("{tenant} for {}", words(key.scopes))
}

fn row(key: &ApiKey, now: Timestamp) -> String {
    let state = match (key.revoked_at, key.expires_at) {
        (Some(_), _) => "revoked".to_owned(),
        (None, Some(end)) if end <= now => "expired".to_owned(),
        (None, Some(end)) => format!("until {:.10}", end.to_string()),
        (None, None) => "valid".to_owned(),
    };
    let tenant = key.tenant.as_ref().map_or("(all)", TenantName::as_str);
    let (id, scopes, name) = (&key.id, words(key.scopes), &key.name);
    format!(
        "{id:8}  {state:20}  {tenant:16}  {scopes:22}  {:24}  {name}",
        key.created_at.to_string()
    )
}

fn words(scopes: Scopes) -> String {
    let words: Vec<_> = scopes.iter().map(Scope::as_str).collect();
    words.join(",")
}

fn tenant(text: &str) -> Result<TenantName, String> {
    TenantName::new(text)
        .ok_or_else(|| "use 1 to 64 of a-z, 0-9, _ and -, starting with a letter or digit".to_owned())
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::parse(text).ok_or_else(|| "there are submit, read and operate".to_owned())
}

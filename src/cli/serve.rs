//! `sluicegate serve`: runs the gateway.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::{ConfigArgs, print};
use crate::app::Reloads;
use crate::config::{self, BackendSettings, QueueSettings, Role, Settings, StoreSettings};
use crate::telemetry::otlp::LogPush;
use crate::{app, telemetry};

/// Run the gateway
///
/// Accepts transactions over HTTP, keeps them safe and brings them to their ledgers. SIGTERM or Ctrl-C stops
/// it in an orderly way: open requests are answered, submissions under way may finish
/// (shutdown.drain_seconds), and what remains goes on after the next start. SIGHUP makes it read its configuration again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluicegate serve
  sluicegate serve --config /etc/sluicegate/config.toml
  sluicegate serve --listen 0.0.0.0:8080
  sluicegate serve --role worker --config cluster.toml
  SLUICEGATE__STORE__PATH=/var/lib/sluicegate sluicegate serve")]
pub struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address to listen on, instead of the configured one
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// What this process does, of several that share a PostgreSQL store
    #[arg(long, value_enum, default_value = "all")]
    role: RoleArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleArg {
    /// Everything
    All,
    /// Accept requests and answer questions
    Api,
    /// Submit to the ledgers; of several workers one is active per ledger, the others stand by
    Worker,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::All => Self::All,
            RoleArg::Api => Self::Api,
            RoleArg::Worker => Self::Worker,
        }
    }
}

pub(super) async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let file = args.config.config;
    let loaded = config::load(file.as_deref())?;
    let (listen, role) = (args.listen, Role::from(args.role));
    let (mut reloads, settings) = Reloads::new(file, loaded, move |settings| {
        settings.http.listen = listen.unwrap_or(settings.http.listen);
        settings.role = role;
    });
    if settings.role != Role::All && matches!(settings.store, StoreSettings::Embedded(_)) {
        anyhow::bail!(
            "--role {} needs others to do the rest, and an embedded store belongs to one process: set store.kind = \"postgres\", or leave --role out",
            args.role
                .to_possible_value()
                .map_or_else(String::new, |role| role.get_name().to_owned())
        );
    }
    let logs = LogPush::start(settings.otlp.as_ref())?;
    telemetry::start_logging(&settings.log.level, settings.log.format, &logs)?;
    #[cfg(feature = "failpoints")]
    crate::failpoint::arm()?;
    allow_many_connections();
    let (summary, scheme) = (summary(&settings), scheme(&settings));
    let told_to_stop = told_to_stop()?;
    // From here on, so that a signal during the start is not the end of it.
    let mut hang_up = signal(SignalKind::hangup())?;
    let app = app::build(settings).await?;
    let gateway = app.gateway().clone();
    let greeting = match app.role() {
        Role::All | Role::Api => greeting(app.address(), scheme, &summary),
        Role::Worker => format!(
            "Sluicegate {VERSION} works; probes on {scheme}://{}\n{summary}",
            app.address()
        ),
    };
    print::greeting(greeting);
    let run = app.run(async move {
        told_to_stop.await;
        tracing::info!("stopping: finishing what is under way");
    });
    let read_again = async {
        while hang_up.recv().await.is_some() {
            reloads.reload(&gateway).await;
        }
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = run => ended,
        () = read_again => Ok(()),
    };
    logs.end().await;
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// Every client that waits holds a connection, and the soft limit on open files is mostly 1024. The hard limit is what
/// the operator allows.
pub(super) fn allow_many_connections() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Ends with SIGTERM or Ctrl-C. Listens from the call on, so that a signal during the start is not the end of
/// an unfinished one.
pub(super) fn told_to_stop() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn summary(settings: &Settings) -> String {
    let ledgers: Vec<_> = settings
        .ledgers
        .iter()
        .map(|(name, ledger)| {
            let kind = match &ledger.backend {
                BackendSettings::Simulator(_) => "simulator".to_owned(),
                BackendSettings::Fabric(fabric) => {
                    let peers: Vec<_> = fabric
                        .peers
                        .iter()
                        .map(|peer| peer.as_str().trim_end_matches('/'))
                        .collect();
                    format!("fabric channel {} at {}", fabric.channel, peers.join(", "))
                }
            };
            format!("{name} ({kind}, up to {} tx/s)", ledger.worker.rate_per_second)
        })
        .collect();
    let store = match &settings.store {
        StoreSettings::Embedded(store) => {
            format!("{} ({}, in this process)", store.path.display(), store.engine)
        }
        StoreSettings::Postgres(store) => store.url.to_string(),
    };
    let queue = match &settings.queue {
        QueueSettings::Embedded => "embedded".to_owned(),
        QueueSettings::RabbitMq(queue) => format!("{} ({} queues)", queue.url, queue.queue_type.as_str()),
    };
    format!(
        "  store    {store}\n  queue    {queue}\n  ledgers  {}",
        ledgers.join(", ")
    )
}

fn scheme(settings: &Settings) -> &'static str {
    match settings.http.tls {
        Some(_) => "https",
        None => "http",
    }
}

fn greeting(address: SocketAddr, scheme: &str, summary: &str) -> String {
    let text = format!("Sluicegate {VERSION} listens on {scheme}://{address}\n{summary}\n");
    text + &format!(
        r#"Try it (Ctrl-C stops the gateway):
  curl -i {scheme}://{address}/v1/transactions -H 'Content-Type: application/json' -H 'Prefer: wait=5' \
    -d '{{"ledger":"main","contract":"counter","function":"Add","args":["visits",1]}}'"#
    )
}

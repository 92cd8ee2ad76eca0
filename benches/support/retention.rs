//! What it costs those who submit that old records are removed, or archived and removed.
//!
//! The configuration counts retention in days, so the gateway of this scenario is the benchmark's own process, started once
//! more with settings that no file can have.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    reason = "a benchmark may panic"
)]

use std::num::NonZeroU32;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use sluicegate::app;
use sluicegate::config::{
    ArchivePlace, ArchiveSettings, BackendSettings, EmbeddedStoreSettings, Settings, SimulatorSettings,
    StoreSettings,
};

use super::overload::{Measured, bounded, probe};
use super::{Server, Until, ask, body, load, post_600};

/// The argument that makes a benchmark a gateway: then come its folder, for how many seconds it keeps what is done, and
/// whether it archives that.
pub const SERVE: &str = "--serve-with-retention";

const FOR_EVER: &str = "1000000";

/// Is that gateway, if the process was started as one.
pub async fn serve_if_told() {
    let mut words = std::env::args().skip_while(|word| word != SERVE).skip(1);
    let (Some(folder), Some(keep), Some(archives)) = (words.next(), words.next(), words.next()) else {
        return;
    };
    let folder = Path::new(&folder);
    let mut settings = Settings::default();
    settings.http.listen.set_port(0);
    settings.log.level = "warn".to_owned();
    settings.store = StoreSettings::Embedded(EmbeddedStoreSettings {
        path: folder.join("data"),
        ..EmbeddedStoreSettings::default()
    });
    settings.retention.done = Some(Duration::from_secs(keep.parse().expect("seconds")));
    settings.archive = (archives == "true").then(|| ArchiveSettings {
        place: ArchivePlace::Folder(folder.join("archive")),
        gather: Duration::ZERO,
    });
    let main = settings.ledgers.get_mut("main").expect("main");
    main.backend = BackendSettings::Simulator(SimulatorSettings {
        batch_timeout: Duration::from_millis(100),
        max_message_count: NonZeroU32::new(1_000).expect("not zero"),
    });
    main.worker.rate_per_second = 1_000_000.0;
    main.worker.burst = NonZeroU32::new(10_000).expect("not zero");
    main.worker.max_in_flight = NonZeroU32::new(2_000).expect("not zero");
    let app = app::build(settings).await.expect("builds");
    println!("listens on {}", app.address());
    app.run(std::future::pending()).await.expect("runs");
}

fn gateway(folder: &Path, keep: &str, archives: bool) -> Server {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.arg(SERVE).arg(folder).args([keep, &archives.to_string()]);
    Server::start(command)
}

/// `count` records are done, and are removed all at once, while others are accepted.
pub async fn removal(count: u64, quiet: Duration, during: Duration, archives: bool) -> Measured {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::create_dir(folder.path().join("archive")).expect("makes a folder");
    let server = gateway(folder.path(), FOR_EVER, archives);
    let filled = load(&server.address, 64, Until::Answers(count), post_600).await;
    while server.metric("sluicegate_backlog{") > 0.0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let last = json!({"ledger": "main", "contract": "counter", "function": "Set", "args": ["last", 1]});
    let last = body(&ask(
        &server.address,
        "POST",
        "/v1/transactions",
        &last.to_string(),
    ));
    let until = last["created_at"].as_str().expect("a moment").to_owned();
    let old = format!("/v1/transactions?limit=1&status=done&created_before={until}");
    let is_there = |server: &Server| server.json(&old)["items"] != json!([]);
    let idle = probe(&server, quiet).await;
    let mut peak_mib = bounded(&server);
    server.kill();

    let server = gateway(folder.path(), "1", archives);
    let begun = Instant::now();
    // The first round comes after a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let loaded = probe(&server, during).await;
    let outlasted = is_there(&server);
    while is_there(&server) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = begun.elapsed();
    peak_mib = peak_mib.max(bounded(&server));
    Measured {
        note: format!(
            "{:.0} a second were removed, {}",
            count as f64 / took.as_secs_f64(),
            match outlasted {
                true => "all the while",
                false => "but not to the end of the measurement: take more records",
            }
        ),
        peak_mib,
        drained: None,
        accepted: filled.answers + 1 + idle.answers + loaded.answers,
        idle,
        loaded,
    }
}

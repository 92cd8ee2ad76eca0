//! I1, I2, I3 through power cuts: clients post to a gateway whose data folder lies on a disk of [`power_disk`], in
//! front of a devnet that lives elsewhere. The power is cut again and again in the midst of it. The gateway goes on
//! from one image of what the cut left; others are opened and read. In every one of them the store is sound and
//! holds every acknowledged transaction, and at the end each of those took effect exactly once.
//!
//! That the disk loses what nobody synced is shown by two writers beside the gateway: of the one that syncs
//! nothing is ever missing, of the one that does not, something is.
//!
//! `SLUICEGATE_POWER_IMAGES` sets how many images are taken for each engine. Takes root; skipped without it, loudly.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sluicegate::domain::TransactionId;
use sluicegate::kv::EngineKind;
use sluicegate::store::TransactionStore;
use sluicegate::store::embedded::{self, DataFolder, EmbeddedStore};
use sluicegate::telemetry::metrics::Metrics;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::basics::skipped;
use crate::crash::{Api, end, http, judge, start};
use crate::power_disk::{DiskNumber, Mounted, Shelf};
use crate::support::eventually;
use crate::support::fabric::FabricDevnet;

const CLIENTS: usize = 8;
const COUNTERS: u64 = 25;
/// Images of each cut; the gateway goes on from the first.
const IMAGES_PER_CUT: usize = 3;
const CACHE: usize = 1 << 20;
/// So many are acknowledged before the power is cut.
const FEWEST: usize = 20;
/// What the two writers write at once.
const LINE: usize = 4_096;

const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
[store]
path = "disk/data"
engine = "ENGINE"
[log]
level = "off"
[ledgers.main.worker]
rate_per_second = 5000
burst = 50
max_in_flight = 24
lease_seconds = 4
check_after_ms = 500
[ledgers.main.retry]
min_ms = 5
max_ms = 60
max_attempts = 0
outage_min_ms = 10
outage_max_ms = 100
"#;

#[tokio::test(flavor = "multi_thread")]
async fn i1_power_cuts_lose_nothing_and_repeat_nothing_on_redb() {
    campaign(EngineKind::Redb, 11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_power_cuts_lose_nothing_and_repeat_nothing_on_sled() {
    campaign(EngineKind::Sled, 12).await;
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long it runs is for this test alone"
)]
fn cuts() -> usize {
    let images: usize =
        std::env::var("SLUICEGATE_POWER_IMAGES").map_or(6, |text| text.parse().expect("a number"));
    images.div_ceil(IMAGES_PER_CUT)
}

async fn campaign(engine: EngineKind, seed: u64) {
    let shelf = match Shelf::set_up() {
        Ok(shelf) => shelf,
        Err(reason) => {
            skipped(&format!("power cuts on {engine}: {reason}"));
            return;
        }
    };
    let mut random = StdRng::seed_from_u64(seed);
    let (folder, network) = (
        tempfile::tempdir().expect("folder"),
        tempfile::tempdir().expect("folder"),
    );
    let quick = ["--batch-timeout-ms", "15", "--max-message-count", "20"];
    let ledger = FabricDevnet::start(network.path(), &quick).await;
    let config = format!("{}{CONFIG}", ledger.section).replace("ENGINE", engine.as_str());
    std::fs::write(folder.path().join("config.toml"), config).expect("writes");
    let place = folder.path().join("disk");
    std::fs::create_dir(&place).expect("folder");
    let mut disk = shelf.formatted().expect("formats");
    let mut mounted = Some(Mounted::mount(&shelf, disk, &place).expect("mounts"));
    let mut gateway = start(folder.path()).await;

    let accepted = Arc::new(Mutex::new(Vec::new()));
    let (address, watched) = watch::channel(gateway.address.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(
            number,
            seed,
            watched.clone(),
            stop.clone(),
            accepted.clone(),
        ));
    }
    let (mut images, mut careless_lost) = (0, 0);
    for cut in 0..cuts() {
        let careful = Writer::start(&place.join(format!("careful-{cut}")), true);
        let careless = Writer::start(&place.join(format!("careless-{cut}")), false);
        let before = accepted.lock().expect("no panic").len();
        eventually("the clients get through", async || {
            (accepted.lock().expect("no panic").len() >= before + FEWEST).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..800))).await;
        shelf.cut(disk);
        gateway.process.start_kill().expect("kills");
        shelf.release(disk);
        gateway.process.wait().await.expect("waits");
        let (careful, careless) = (careful.end(), careless.end());
        drop(mounted.take());
        let acknowledged = ids(&accepted);
        let left: Vec<DiskNumber> = (0..IMAGES_PER_CUT)
            .map(|_| {
                let kept = [0.0, 0.5, 1.0][random.random_range(0..3)];
                shelf.image(disk, kept, &mut random)
            })
            .collect();
        shelf.scrap(disk);
        // The one to go on from comes last and stays mounted.
        for image in left.iter().rev() {
            let again = Mounted::mount(&shelf, *image, &place).expect("ext4 recovers its journal");
            sound(engine, &place.join("data"), &acknowledged).await;
            assert_eq!(
                lost(&place.join(format!("careful-{cut}")), careful),
                0,
                "cut {cut}"
            );
            careless_lost += lost(&place.join(format!("careless-{cut}")), careless);
            images += 1;
            if *image == left[0] {
                mounted = Some(again);
            } else {
                drop(again);
                shelf.scrap(*image);
            }
        }
        disk = left[0];
        gateway = start(folder.path()).await;
        address.send_replace(gateway.address.clone());
    }
    stop.store(true, Ordering::Relaxed);
    while clients
        .join_next()
        .await
        .transpose()
        .expect("no client failed")
        .is_some()
    {}
    let accepted = accepted.lock().expect("no panic").clone();
    eprintln!(
        "{engine}, seed {seed}: {images} images of {} power cuts, {} acknowledged, none lost; the careless writer \
         lost {careless_lost} blocks",
        cuts(),
        accepted.len()
    );
    assert!(
        careless_lost > 0,
        "a disk that never loses what was not synced shows nothing"
    );
    let api = Api::of(&gateway);
    judge(&api, &accepted).await;
    one_for_each(&api, &ledger, &accepted).await;
    end(gateway, folder.path()).await;
    ledger.stop().await;
    drop(mounted);
}

fn ids(accepted: &Mutex<Vec<(String, u64)>>) -> Vec<TransactionId> {
    let accepted = accepted.lock().expect("no panic");
    accepted
        .iter()
        .map(|(id, _)| id.parse().expect("an id"))
        .collect()
}

/// The store of an image has no fault and every acknowledged record.
async fn sound(engine: EngineKind, data: &Path, acknowledged: &[TransactionId]) {
    let folder = DataFolder::hold(data, engine).expect("holds");
    let report = embedded::check(&folder, CACHE).expect("opens");
    assert_eq!(report.findings, [], "{engine}");
    let metrics = Metrics::new().expect("metrics").store();
    let store = EmbeddedStore::open(engine, &folder.store(), CACHE, metrics).expect("opens");
    for id in acknowledged {
        let record = store.get(*id).await.expect("can be read");
        assert!(record.is_some(), "{engine}: I1: {id} is lost");
    }
}

/// Posts one `Add` after the other, repeating each with its key until it is acknowledged.
async fn client(
    number: usize,
    seed: u64,
    address: watch::Receiver<String>,
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<Vec<(String, u64)>>>,
) {
    let http = http();
    let mut random = StdRng::seed_from_u64(seed * 1_000 + number as u64);
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let counter = random.random_range(0..COUNTERS);
        let body = json!({"ledger": "main", "contract": "counter", "function": "Add",
            "args": [format!("c{counter}"), 1]});
        sent += 1;
        let key = format!("client-{number}-{sent}");
        let id = loop {
            let url = format!("{}/v1/transactions", *address.borrow());
            let request = http.post(url).header("Idempotency-Key", &key).json(&body);
            if let Ok(answer) = request.send().await
                && let status = answer.status()
                && let Ok(record) = answer.json::<Value>().await
            {
                assert!(status.is_success(), "refused: {record}");
                break record["id"].as_str().expect("an id").to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        accepted.lock().expect("no panic").push((id, counter));
    }
}

/// Appends numbered blocks to a file until the disk fails.
struct Writer {
    written: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(path: &Path, syncs: bool) -> Self {
        let mut file = File::create(path).expect("creates");
        let parent = File::open(path.parent().expect("a folder")).expect("opens");
        if syncs {
            parent.sync_all().expect("syncs");
        }
        drop(parent);
        let written = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (count, stopped) = (written.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut write = |number: usize| {
                file.write_all(&block(number))?;
                if syncs { file.sync_data() } else { Ok(()) }
            };
            // The one that does not sync may not notice that the disk is gone.
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) && write(number).is_ok() {
                number += 1;
                count.store(number, Ordering::Release);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self {
            written,
            stop,
            thread,
        }
    }

    /// How many blocks were written when the power was gone.
    fn end(self) -> usize {
        let written = self.written.load(Ordering::Acquire);
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
        written
    }
}

fn block(number: usize) -> Vec<u8> {
    let mut block = vec![0x5a; LINE];
    block[..8].copy_from_slice(&(number as u64).to_be_bytes());
    block
}

/// How many of the first blocks of a file are not there, or not whole.
fn lost(path: &Path, written: usize) -> usize {
    let found = std::fs::read(path).unwrap_or_default();
    (0..written)
        .filter(|number| found.get(number * LINE..(number + 1) * LINE) != Some(&block(*number)))
        .count()
}

/// The valid transactions of the chain are exactly those that the records name.
async fn one_for_each(api: &Api, ledger: &FabricDevnet, accepted: &[(String, u64)]) {
    let chain = ledger.get("/transactions?from=0").await;
    let chain = chain.as_array().expect("transactions");
    let valid: Vec<&str> = chain
        .iter()
        .filter(|entry| entry["code"] == "VALID")
        .map(|entry| entry["id"].as_str().expect("an id"))
        .collect();
    let unique: BTreeSet<String> = valid.iter().map(|id| (*id).to_owned()).collect();
    assert_eq!(unique.len(), valid.len(), "I2: an id that is valid twice");
    let mut named = BTreeSet::new();
    for (id, _) in accepted {
        let record = api.get(&format!("/v1/transactions/{id}")).await;
        named.insert(record["tx_id"].as_str().expect("an id").to_owned());
    }
    assert_eq!(
        named, unique,
        "I2: one valid transaction for each that was accepted"
    );
    let repeats = chain
        .iter()
        .filter(|entry| entry["code"] == "DUPLICATE_TXID")
        .count();
    eprintln!(
        "{} entries in the chain, {repeats} of them repeats that took no effect",
        chain.len()
    );
}

//! Everything at once: a seeded schedule kills, freezes and restarts gateways, broker and database and breaks the
//! lines between them, while clients are at it. Then all is mended, and the oracle is asked.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::load::Load;
use crate::oracle::judge;
use crate::proxy::Fault;
use crate::site::Site;

const LASTS: Duration = Duration::from_secs(35);

/// RabbitMQ 3.10 may leave a quorum queue without a leader for good if it is killed within seconds of the
/// queue's creation.
const QUEUE_SETTLES: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_survives_everything_at_once() {
    let site = Site::cluster(&["api", "api", "worker", "worker"]).await;
    campaign(site, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_a_broker_survives_everything_at_once() {
    let site = Site::broker().await;
    campaign(site, 4).await;
}

async fn campaign(mut site: Site, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let load = Load::start(6, Duration::from_millis(50), &site.addresses);
    tokio::time::sleep(QUEUE_SETTLES).await;
    let start = Instant::now();
    let mut blows = 0;
    while start.elapsed() < LASTS {
        blow(&mut site, &mut random).await;
        blows += 1;
        tokio::time::sleep(Duration::from_millis(random.random_range(100..1_200))).await;
    }
    let accepted = load.finish().await;
    let repeated = accepted.iter().filter(|one| one.tries > 1).count();
    judge(&site, &accepted).await;
    eprintln!(
        "seed {seed}: {} accepted, {repeated} of them with retries, over {blows} blows; {} submissions came twice",
        accepted.len(),
        site.ledger.repeated().await.len()
    );
}

/// Something bad, and its end.
async fn blow(site: &mut Site, random: &mut StdRng) {
    let node = random.random_range(0..site.nodes.len());
    let a_while = Duration::from_millis(random.random_range(300..3_500));
    let fault = [
        Fault::Cut,
        Fault::Stall,
        Fault::HalfOpen,
        Fault::Slow(Duration::from_millis(40)),
    ][random.random_range(0..4)];
    let has_database = site.has_database();
    match random.random_range(0..11) {
        0..=2 => {
            site.nodes[node].kill().await;
            tokio::time::sleep(a_while / 3).await;
            site.start(node).await;
        }
        3 => site.restart(node).await,
        4 | 5 => {
            site.nodes[node].signal("STOP").await;
            tokio::time::sleep(a_while).await;
            site.nodes[node].signal("CONT").await;
        }
        6 => {
            site.amqp.set(fault);
            tokio::time::sleep(a_while).await;
            site.amqp.set(Fault::None);
        }
        7 if has_database => {
            site.database_line().set(fault);
            tokio::time::sleep(a_while).await;
            site.database_line().set(Fault::None);
        }
        8 if has_database => {
            site.database().kill();
            tokio::task::block_in_place(|| site.database().restart());
        }
        9 if has_database => {
            site.database().pause();
            tokio::time::sleep(a_while).await;
            site.database().resume();
        }
        7..=9 => {
            site.broker.stop_signal();
            tokio::time::sleep(a_while).await;
            site.broker.cont();
        }
        _ => {
            site.broker.kill9();
            tokio::task::block_in_place(|| site.broker.restart());
        }
    }
}

//! What has to hold at the end, whatever happened before: the clients' log of acknowledgements, the store and the
//! ledger's chain are held against each other. `promises` says what is asked, this file gathers the facts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::Command;

use crate::ledger::Sent;
use crate::load::Accepted;
use crate::moves::history_is_legal;
use crate::promises::{self, Promise, Record, Records, Stretch};
use crate::site::Site;
use crate::support::{DEADLINE, eventually, within};

/// What is known besides the site itself.
#[derive(Default)]
pub(crate) struct Evidence {
    /// The clients' log.
    pub(crate) accepted: Vec<Accepted>,
    /// When the ledger or the line to it held up what was sent, in ms since 1970.
    pub(crate) held_up: Vec<Stretch>,
    /// Messages that lead to no record and were put into the queue by the test.
    pub(crate) dead_letters: u64,
    /// What those objected to who watched.
    pub(crate) objections: Vec<String>,
    /// Whether the store went back in time, to before it knew what the contract answered.
    pub(crate) rewound: bool,
}

impl Evidence {
    pub(crate) fn of(accepted: Vec<Accepted>) -> Self {
        Self {
            accepted,
            ..Self::default()
        }
    }
}

/// What is worth telling of a site that kept its promises.
pub(crate) struct Verdict {
    pub(crate) chain: Vec<Sent>,
    /// Submissions that came more than once, with how often.
    pub(crate) repeated: BTreeMap<String, usize>,
    /// How much above the rate the ledger saw at most.
    pub(crate) above_rate: f64,
    /// How long it took to settle what was not.
    pub(crate) drained_in: Duration,
}

/// Everything that was acknowledged is settled, its effects are on the ledger exactly once, the rate was kept,
/// and nothing is left over.
pub(crate) async fn judge(site: Site, accepted: Vec<Accepted>) -> Verdict {
    judge_by(site, Evidence::of(accepted)).await
}

/// The same, with more to go by. All broken promises are told, not the first alone.
pub(crate) async fn judge_by(mut site: Site, evidence: Evidence) -> Verdict {
    let accepted = &evidence.accepted;
    let begin = Instant::now();
    the_backlog_drains(&site).await;
    let drained_in = begin.elapsed();
    let records = listed(&site).await;
    let effects = promises::effects(accepted);
    let mut stand = BTreeMap::new();
    for counter in effects.keys() {
        stand.insert(counter.clone(), site.api().counter(counter).await);
    }
    let mut verdicts = vec![
        promises::every_acknowledged_is_there(accepted, &records),
        promises::every_record_is_settled(accepted, &records),
        promises::every_record_is_what_was_asked(accepted, &records),
        promises::answers_are_exact(&records, evidence.rewound),
        promises::one_record_each(accepted, &records),
        promises::counters_are_exact(&effects, &stand),
    ];
    verdicts.extend(evidence.objections.into_iter().map(Err));
    if site.broker.is_some() {
        eventually("I4: no message is left", async || {
            (site.messages() == 0).then_some(())
        })
        .await;
        verdicts.push(promises::the_queue_is_empty(
            site.messages(),
            site.dead_letters(),
            evidence.dead_letters,
        ));
    }
    for node in &mut site.nodes {
        node.stop().await;
    }
    let chain = site.ledger.whole_chain().await;
    verdicts.push(promises::one_valid_transaction_each(&records, &chain));
    let above_rate = promises::the_rate_was_kept(&chain, &evidence.held_up, site.limit);
    verdicts.push(above_rate.clone().map(|_| ()));
    verdicts.push(the_store_is_in_order(&site, records.len()).await);
    verdicts.push(promises::no_defect_was_told(&site.log()));
    let broken: Vec<_> = verdicts.into_iter().filter_map(Result::err).collect();
    assert!(broken.is_empty(), "broken promises:\n{}", broken.join("\n"));
    let mut repeated = BTreeMap::new();
    for one in &chain {
        *repeated.entry(one.id.clone()).or_default() += 1;
    }
    repeated.retain(|_, times| *times > 1);
    let above_rate = above_rate.unwrap_or_default();
    Verdict {
        chain,
        repeated,
        above_rate,
        drained_in,
    }
}

/// So many are settled in a second, at the least, on a machine that has much else to do.
const SLOWEST: u64 = 20;

/// I3: in the time that it takes, and not when something happens to find what was forgotten.
pub(crate) async fn the_backlog_drains(site: &Site) {
    let backlog = async || {
        let lanes = site.api().get("/v1/ledgers").await;
        lanes["items"][0]["backlog"].as_u64().expect("a number")
    };
    let limit = DEADLINE + Duration::from_secs(backlog().await / SLOWEST);
    within(limit, "I3: the backlog drains", async || {
        (backlog().await == 0).then_some(())
    })
    .await;
}

/// Every record.
pub(crate) async fn listed(site: &Site) -> Records {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let listed = site.listed("").await.expect("the gateway lists");
    let of = |record: Value| {
        let listed_as = Record {
            status: text(&record["status"]).expect("a status"),
            tx_id: text(&record["tx_id"]),
            block: record["block"].as_u64(),
            counter: (record["function"] == "Add")
                .then(|| text(&record["args"][0]))
                .flatten(),
            result: record["result"].as_u64(),
        };
        (text(&record["id"]).expect("an id"), listed_as)
    };
    listed.into_iter().map(of).collect()
}

/// What a gateway that was stopped leaves behind.
async fn the_store_is_in_order(site: &Site, records: usize) -> Promise {
    let Some(database) = &site.database else {
        let names = std::fs::read_dir(&site.store).expect("the data folder");
        let names: Vec<_> = names
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        promises::nothing_is_left_over(&names)?;
        let check = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
            .args(["store", "check"])
            .current_dir(site.folder.path())
            .output()
            .await
            .expect("runs");
        let said = String::from_utf8_lossy(&check.stdout);
        return if check.status.success() {
            Ok(())
        } else {
            Err(format!("store check: {said}"))
        };
    };
    let rows = database.sql(
        "SELECT (SELECT count(*) FROM transactions), (SELECT count(*) FROM settled), (SELECT count(*) FROM work)",
    );
    if rows != format!("{records}|{records}|0") {
        return Err(format!("the database has {rows} rows of {records} records"));
    }
    history_is_legal(&database.sql("SELECT id, version, stage, attempts FROM oracle.history ORDER BY id, n"))
}

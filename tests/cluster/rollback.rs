//! A database that went back in time, as after a restore of an old backup or a standby that lagged when it took over.

use std::time::Duration;

use crate::load::Load;
use crate::oracle::{Evidence, judge_by};
use crate::plan::{Plan, Topology};
use crate::site::Site;
use crate::support::eventually;

const TABLES: [&str; 4] = ["transactions", "work", "settled", "checkpoints"];

#[tokio::test(flavor = "multi_thread")]
async fn i2_a_database_that_went_back_in_time_submits_nothing_again() {
    // What is overdue is asked for and sent again, the same bytes: on a slow machine that would be taken for what this is about.
    let plan = Plan::new(Topology::Cluster).replace("check_after_ms = 3000", "check_after_ms = 30000");
    let mut site = plan.roles(&["api", "worker"]).start().await;
    let load = Load::start(8, Duration::from_millis(10), &site.addresses);
    site.work_goes_on(50).await;
    // Without its worker, so that much waits; some was submitted, and its outcome not heard.
    site.nodes[1].kill().await;
    let unsettled = || -> usize { sql(&site, "SELECT count(*) FROM work").parse().expect("a number") };
    eventually("much waits", async || (unsettled() > 300).then_some(())).await;
    let accepted = load.finish().await;
    let unsettled = unsettled();
    let copies = TABLES.map(|table| format!("CREATE TABLE old.{table} AS TABLE {table};"));
    let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE SCHEMA old;";
    let history = "CREATE TABLE old.history AS TABLE oracle.history;";
    sql(
        &site,
        &format!("{snapshot} {} {history} COMMIT;", copies.concat()),
    );
    site.start(1).await;
    site.work_goes_on(unsettled / 2).await;
    for node in &mut site.nodes {
        node.kill().await;
    }
    let before = site.ledger.chain.sent().await.len();
    let back = TABLES.map(|table| format!("INSERT INTO {table} SELECT * FROM old.{table};"));
    let empty = format!("BEGIN; TRUNCATE {};", TABLES.join(", "));
    // What the oracle keeps in it goes back as well, without what its triggers said of this.
    let history = "TRUNCATE oracle.history; INSERT INTO oracle.history SELECT * FROM old.history;";
    sql(&site, &format!("{empty} {} {history} COMMIT;", back.concat()));
    // As docs/POSTGRES.md says.
    let mark = "UPDATE work SET expires_at = NULL, progress = '{\"rewound\":true,' || substr(progress, 2) \
                WHERE position('\"rewound\":true' IN progress) = 0;";
    sql(&site, mark);
    sql(&site, mark);
    for node in 0..site.nodes.len() {
        site.start(node).await;
    }
    let number = accepted.len();
    let evidence = Evidence {
        rewound: true,
        ..Evidence::of(accepted)
    };
    let verdict = judge_by(site, evidence).await;
    let repeated = verdict.repeated;
    assert!(repeated.is_empty(), "I2: {repeated:?} were submitted again");
    eprintln!(
        "{number} accepted, {unsettled} of them unsettled in the old state, {before} submissions before"
    );
}

fn sql(site: &Site, statement: &str) -> String {
    site.database_part().sql(statement)
}

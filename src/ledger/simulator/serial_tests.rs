//! Whatever interleaving: money is conserved, and what committed is a serial execution in block order.

use std::time::Duration;

use proptest::prelude::*;

use super::block::ValidationCode;
use super::envelope::Envelope;
use super::testkit::{MemoryEngine, Running};
use super::*;
use crate::clock::SystemClock;
use crate::ledger::conformance::{fresh, outcomes_of, request};

const ACCOUNTS: [&str; 4] = ["a", "b", "c", "d"];

/// One call, prepared in its round and submitted `delay` rounds later.
#[derive(Debug, Clone)]
struct Step {
    call: (&'static str, Vec<String>),
    delay: usize,
}

fn step() -> impl Strategy<Value = Step> {
    let account = || (0..ACCOUNTS.len()).prop_map(|n| ACCOUNTS[n].to_owned());
    let amount = || (0..70_u8).prop_map(|n| n.to_string());
    let call = prop_oneof![
        6 => (account(), account(), amount()).prop_map(|(from, to, n)| ("Transfer", vec![from, to, n])),
        1 => (account(), amount()).prop_map(|(to, n)| ("Mint", vec![to, n])),
    ];
    (call, 0..3_usize).prop_map(|(call, delay)| Step { call, delay })
}

fn soon(count: usize) -> Running {
    let timeout = Duration::from_millis(1);
    Running::open(MemoryEngine::default(), count, timeout, Arc::new(SystemClock))
}

fn supply(running: &Running) -> u128 {
    let balances = running.state("token");
    balances
        .iter()
        .map(|(_, balance)| balance.parse::<u128>().expect("a balance"))
        .sum()
}

/// The valid transactions in block order: what was called, and what came back.
fn committed(running: &Running) -> Vec<(Call, String)> {
    (1..=running.ledger.height())
        .flat_map(|block| {
            running
                .ledger
                .engine
                .peer()
                .chain()
                .entries(block)
                .expect("entries")
        })
        .filter(|entry| entry.code == ValidationCode::Valid)
        .map(|entry| Envelope::open(&entry.envelope).expect("an envelope"))
        .map(|envelope| {
            let response = envelope.response.map(|json| json.get().to_owned());
            (envelope.call, response.unwrap_or_default())
        })
        .collect()
}

async fn check(rounds: Vec<Vec<Step>>, count: usize) {
    let running = soon(count);
    for account in ACCOUNTS {
        running
            .invoke("token", "Mint", &[account, "100"])
            .await
            .expect("minted");
    }
    let mut stream = running.ledger.outcomes(None);
    let mut waiting: Vec<(usize, Prepared)> = Vec::new();
    let mut sent = Vec::new();
    for round in 0..rounds.len() + 3 {
        for step in rounds.get(round).into_iter().flatten() {
            let (function, args) = &step.call;
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            // A refusal (no funds) is as good an answer as any.
            if let Ok(prepared) = running
                .ledger
                .prepare(fresh(), &request("token", function, &args))
                .await
            {
                waiting.push((round + step.delay, prepared));
            }
        }
        let (now, later) = waiting.into_iter().partition(|(due, _)| *due <= round);
        waiting = later;
        for (_, prepared) in now {
            running.ledger.submit(&prepared).await.expect("taken");
            sent.push(prepared.tx_id);
        }
        tokio::task::yield_now().await;
    }
    outcomes_of(&mut stream, &sent.iter().collect::<Vec<_>>()).await;

    let committed = committed(&running);
    let minted = committed.iter().filter(|(call, _)| call.function == "Mint");
    let minted: u128 = minted
        .map(|(call, _)| call.args[1].parse::<u128>().expect("an amount"))
        .sum();
    assert_eq!(supply(&running), minted, "money is neither made nor lost");

    let replay = soon(1);
    for (call, response) in committed {
        let args: Vec<&str> = call.args.iter().map(String::as_str).collect();
        let again = replay.invoke(&call.contract, &call.function, &args).await;
        assert_eq!(again, Ok(response), "{call:?} finds what it found before");
    }
    assert_eq!(replay.state("token"), running.state("token"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_interleaving_is_serial(
        rounds in prop::collection::vec(prop::collection::vec(step(), 0..6), 1..8),
        count in 1..6_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("runtime").block_on(check(rounds, count));
    }
}

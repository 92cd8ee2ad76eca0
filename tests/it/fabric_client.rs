//! A devnet as Hyperledger Fabric's own client library sees it (`tests/fabric-client`).
//!
//! So what our own backend is tested against is not merely our own reading of the protocol. Needs npm, and at the
//! first run its registry; without them it fails and says so.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::fabric::FabricDevnet;
use crate::support::node;

/// The client with its packages.
async fn client() -> &'static Path {
    static CLIENT: OnceCell<PathBuf> = OnceCell::const_new();
    CLIENT.get_or_init(|| node::install("tests/fabric-client")).await
}

fn details(words: &str, address: &str) -> Value {
    json!([{"address": address, "message": words, "mspId": "Org1MSP"}])
}

#[tokio::test]
async fn the_official_client_works_with_a_devnet() {
    let client = client().await;
    let folder = tempfile::tempdir().expect("folder");
    let devnet = FabricDevnet::start(folder.path(), &["--orgs", "2"]).await;
    let output = node::run(
        node::command(client)
            .arg("main.mjs")
            .arg(format!("localhost:{}", devnet.address.port()))
            .arg(folder.path()),
    )
    .await;
    let seen: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let address = devnet.address.to_string();

    for (what, expected) in [
        ("submitted", json!("2")),
        ("evaluated", json!("2")),
        ("prefixed", json!("2")),
        ("other", json!("1")),
        // VALID and MVCC_READ_CONFLICT.
        (
            "rivals",
            json!([{"code": 0, "successful": true}, {"code": 11, "successful": false}]),
        ),
        ("repeated", json!(0)),
        // ENDORSEMENT_POLICY_FAILURE: one of two organisations is no majority.
        ("alone", json!(10)),
        ("afterAll", json!("15")),
        ("privateData", json!([0, 1])),
    ] {
        assert_eq!(seen[what], expected, "{what}: {seen:#}");
    }
    assert_eq!(
        seen["commit"],
        json!({"sameId": true, "result": "5", "successful": true, "code": 0, "block": 2})
    );

    let business = "chaincode response 500, the asset nothing does not exist";
    let denied = "error validating proposal: access denied: channel [mychannel] creator org unknown, creator is malformed";
    let evaluated = |words: &str| format!("evaluate call to endorser returned error: {words}");
    for (what, name, code, message, details) in [
        (
            "endorseRefused",
            "EndorseError",
            10,
            "10 ABORTED: failed to endorse transaction, see attached details for more info".to_owned(),
            details(business, &address),
        ),
        (
            "evaluateRefused",
            "GatewayError",
            2,
            format!("2 UNKNOWN: {}", evaluated(business)),
            details(business, &address),
        ),
        (
            "stranger",
            "GatewayError",
            9,
            format!("9 FAILED_PRECONDITION: {}", evaluated(denied)),
            details(denied, &address),
        ),
        (
            "unknownChaincode",
            "EndorseError",
            9,
            "9 FAILED_PRECONDITION: no combination of peers can be derived which satisfy the endorsement policy: No metadata was found for chaincode nosuch in channel mychannel".to_owned(),
            json!([]),
        ),
        (
            "unknownChaincodeEvaluated",
            "GatewayError",
            9,
            "9 FAILED_PRECONDITION: no peers available to evaluate chaincode nosuch in channel mychannel".to_owned(),
            json!([]),
        ),
        (
            "unknownOrganization",
            "EndorseError",
            14,
            "14 UNAVAILABLE: failed to find any endorsing peers for org(s): Org9MSP".to_owned(),
            json!([]),
        ),
        (
            "unknownChannel",
            "GatewayError",
            14,
            "14 UNAVAILABLE: failed to get config for channel [nosuch]: could not get last config for channel nosuch".to_owned(),
            json!([]),
        ),
    ] {
        let expected = json!({"name": name, "code": code, "message": message, "details": details});
        assert_eq!(seen[what], expected, "{what}");
    }

    events_are_told(&seen);
    blocks_are_chained(&seen);
    devnet.stop().await;
}

fn events_are_told(seen: &Value) {
    let replayed = seen["replayed"].as_array().expect("events");
    for event in replayed {
        assert_eq!(event["name"], "Added");
        assert_eq!(event["payload"], "hits");
        assert_eq!(event["chaincode"], "counter");
    }
    // After the first one, as its checkpoint says, and with nothing twice.
    assert_eq!(seen["resumed"], json!(replayed[1..]));
    assert_eq!(seen["live"]["name"], "CreateAsset");
    let asset = seen["live"]["payload"].as_str().expect("text");
    assert!(asset.contains("\"Owner\":\"Tomoko\""), "{asset}");
}

fn blocks_are_chained(seen: &Value) {
    let blocks = seen["blocks"].as_array().expect("blocks");
    assert_eq!(blocks[0]["previous"], "");
    for (number, block) in blocks.iter().enumerate() {
        assert_eq!(block["number"], number);
        assert_eq!(block["filter"], json!([0]));
        assert_eq!(block["dataHash"], block["dataHashed"], "{block:#}");
    }
    for pair in blocks.windows(2) {
        assert_eq!(pair[1]["previous"], pair[0]["hash"]);
    }
    let transaction = |endorsed: bool, events: Value| json!([{"id": 64, "endorsed": endorsed, "code": 0, "events": events}]);
    let added = || transaction(true, json!([{"name": "Added", "payload": 0}]));
    for (number, transactions) in [transaction(false, json!([])), added(), added()]
        .iter()
        .enumerate()
    {
        let filtered = &seen["filtered"][number];
        assert_eq!(filtered["number"], number);
        assert_eq!(filtered["channel"], "mychannel");
        assert_eq!(&filtered["transactions"], transactions);
    }
}

/// A crash where it hurts: what the client knows, and what the chain holds afterwards.
#[tokio::test]
async fn a_crash_loses_what_is_in_no_block_and_nothing_else() {
    let client = client().await;
    for (point, step, kept) in [
        ("before-endorse-reply", "endorse", false),
        ("before-order", "submit", false),
        ("before-submit-reply", "submit", false),
        ("after-order-before-block", "commit", false),
        ("after-block-before-reply", "commit", true),
    ] {
        let folder = tempfile::tempdir().expect("folder");
        // Blocks are slow enough for a reply to overtake them.
        let words = ["--no-tls", "--crash-at", point, "--batch-timeout-ms", "500"];
        let devnet = FabricDevnet::start(folder.path(), &words).await;
        let output = node::run(
            node::command(client)
                .arg("submit.mjs")
                .arg(devnet.address.to_string())
                .arg(folder.path())
                .args(["counter", "Add", "hits", "1"]),
        )
        .await;
        let seen: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        devnet.ended().await;
        assert_eq!(seen["step"], step, "{point}: {seen}");
        let again = FabricDevnet::start(folder.path(), &["--no-tls"]).await;
        let expected = match kept {
            true => json!([{"block": 1, "position": 0, "id": seen["id"], "code": "VALID"}]),
            false => json!([]),
        };
        let mut chain = again.get("/transactions").await;
        for entry in chain.as_array_mut().expect("a list") {
            let arrived = entry.as_object_mut().expect("an entry").remove("arrived_at");
            assert!(arrived.and_then(|at| at.as_u64()) > Some(0), "{point}");
        }
        assert_eq!(chain, expected, "{point}");
        again.stop().await;
    }
}

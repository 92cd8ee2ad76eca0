//! `[ledgers.<name>]` of kind `fabric`, as an operator writes it.

use super::*;

fn ledger(text: &str, variables: &[(&str, &str)]) -> Result<FabricSettings, Vec<String>> {
    let variables = variables.iter().map(|&(name, value)| (name.into(), value.into()));
    match merge(Some(("config.toml", text.as_bytes())), variables) {
        Ok((settings, _)) => match settings.ledgers.into_values().next().map(|ledger| ledger.backend) {
            Some(BackendSettings::Fabric(fabric)) => Ok(*fabric),
            other => panic!("no Fabric ledger: {other:?}"),
        },
        Err(error) => Err(error.problems.iter().map(ToString::to_string).collect()),
    }
}

const SHORTEST: &str = "[ledgers.main]\nkind = 'fabric'\npeers = ['http://localhost:7051']\nchannel = 'mychannel'\n\
                        msp_id = 'Org1MSP'\ncertificate = 'user.pem'\nprivate_key = 'user.key'\n";

#[test]
fn a_few_lines_are_enough() {
    let settings = ledger(SHORTEST, &[]).expect("valid");
    assert_eq!(settings.peers.len(), 1);
    assert_eq!(settings.private_key, PrivateKey::File("user.key".into()));
    assert_eq!(settings.keys, KeysKept::Plain);
    assert_eq!((settings.start_block, settings.tls_ca), (None, None));
}

#[test]
fn a_list_may_come_from_a_variable_and_so_may_a_key_that_nobody_sees() {
    let text = SHORTEST.replace("private_key = 'user.key'\n", "tls_ca = 'ca.pem'\n");
    let pem = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
    let variables = [
        (
            "SLUICEGATE__LEDGERS__MAIN__PEERS",
            "https://a:7051, https://b:7051",
        ),
        (
            "SLUICEGATE__LEDGERS__MAIN__ENDORSING_ORGANIZATIONS",
            "Org1MSP,Org2MSP",
        ),
        ("SLUICEGATE__LEDGERS__MAIN__PRIVATE_KEY_PEM", pem),
        ("SLUICEGATE__LEDGERS__MAIN__PRIVATE_KEY_PASSPHRASE", "open sesame"),
        ("SLUICEGATE__LEDGERS__MAIN__START_BLOCK", "7"),
    ];
    let settings = ledger(&text, &variables).expect("valid");
    assert_eq!(
        settings
            .peers
            .iter()
            .map(|url| url.host_str().unwrap_or(""))
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(settings.endorsing_organizations, ["Org1MSP", "Org2MSP"]);
    assert_eq!(settings.private_key, PrivateKey::Here(Secret::new(pem)));
    assert_eq!(settings.start_block, Some(7));
    let shown = format!("{settings:?}");
    assert!(
        !shown.contains("c2VjcmV0") && !shown.contains("sesame"),
        "{shown}"
    );

    let variables = variables.map(|(name, value)| (name.into(), value.into()));
    let (_, effective) = merge(Some(("config.toml", text.as_bytes())), variables).expect("valid");
    let shown: String = effective.iter().map(|value| format!("{value}\n")).collect();
    assert!(shown.contains("private_key_pem = \"***\""), "{shown}");
    assert!(
        !shown.contains("c2VjcmV0") && !shown.contains("sesame"),
        "{shown}"
    );
}

#[test]
fn every_mistake_is_told_with_its_remedy() {
    let nothing = ledger("[ledgers.main]\nkind = 'fabric'\n", &[]).expect_err("nothing is set");
    insta::assert_snapshot!(nothing.join("\n"));
    let text = "[ledgers.main]\nkind = 'fabric'\npeers = ['localhost:7051', 'https://peer:7051']\nchannel = ''\n\
                msp_id = 'Org1 MSP'\ncertificate = 'c.pem'\nprivate_key_pem = 'secret'\nkeys = 'some'\n\
                tls_cert = 'c.pem'\nendorsing_organizations = 'Org1MSP'\n";
    insta::assert_snapshot!(ledger(text, &[]).expect_err("has mistakes").join("\n"));
    let plain = format!("{SHORTEST}tls_ca = 'ca.pem'\n");
    let [problem] = ledger(&plain, &[])
        .expect_err("does not fit")
        .try_into()
        .expect("one problem");
    assert!(problem.contains("write https in peers"), "{problem}");
}

#[test]
fn calls_end_before_the_lane_gives_them_up() {
    let leased = |lines: &str| format!("{SHORTEST}{lines}[ledgers.main.worker]\nlease_seconds = 1\n");
    let settings = ledger(&leased(""), &[]).expect("what is built in is shortened");
    let half = std::time::Duration::from_millis(500);
    assert!(settings.endorse_timeout < half && settings.submit_timeout < half);
    assert!(settings.commit_status_timeout < half);
    let [problem] = ledger(&leased("commit_status_timeout_ms = 500\n"), &[])
        .expect_err("too long")
        .try_into()
        .expect("one problem");
    assert!(
        problem.contains("config.toml:8") && problem.contains("worker.lease_seconds"),
        "{problem}"
    );
}

#[test]
fn a_key_in_the_place_of_a_path_is_refused_and_not_shown() {
    let pem = "-----BEGIN PRIVATE KEY-----\nMIGHsecret\n-----END PRIVATE KEY-----";
    let variables = [("SLUICEGATE__LEDGERS__MAIN__PRIVATE_KEY", pem)];
    let [problem] = ledger(SHORTEST, &variables)
        .expect_err("no path")
        .try_into()
        .expect("one problem");
    assert!(
        problem.contains("instead of its path") && !problem.contains("MIGH"),
        "{problem}"
    );
}

#[test]
fn a_default_contract_that_no_request_could_use_is_refused() {
    for name in ["my.basic", "basic:", ":Contract", ""] {
        let text = format!("{SHORTEST}default_contract = '{name}'\n");
        let problems = ledger(&text, &[]).expect_err(name);
        assert!(
            problems.len() == 1 && problems[0].contains("default_contract"),
            "{problems:?}"
        );
    }
    assert!(ledger(&format!("{SHORTEST}default_contract = 'basic:Assets'\n"), &[]).is_ok());
}

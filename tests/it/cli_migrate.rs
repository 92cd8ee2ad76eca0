//! `sluicegate migrate`: says what it did, and with `--check` does nothing.

use crate::postgres::shared;
use crate::support::cli::{self, Ended};

async fn migrate(url: &str, words: &[&str]) -> Ended {
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("config.toml");
    let text = format!(
        "[store]\nkind = 'postgres'\nurl = '{url}'\ntimeout_ms = 2000\n\
         [queue]\nkind = 'rabbitmq'\nurl = 'amqp://127.0.0.1:1'\n\
         [ledgers.main]\nkind = 'fabric'\npeers = ['http://127.0.0.1:1']\nchannel = 'c'\nmsp_id = 'm'\n\
         certificate = 'c.pem'\nprivate_key = 'k.pem'\n"
    );
    std::fs::write(&config, text).expect("writes");
    let config = ["migrate", "--config", config.to_str().expect("UTF-8")];
    cli::run(&[&config, words].concat()).await
}

#[tokio::test]
async fn tables_are_made_once_and_a_check_makes_none() {
    let url = shared().database();
    for _ in 0..2 {
        let ended = migrate(&url, &["--check"]).await.expect(1);
        assert_eq!(
            ended.out,
            "outstanding: 1 transactions\noutstanding: 2 checkpoints\noutstanding: 3 tenants\n"
        );
    }
    let ended = migrate(&url, &[]).await.expect(0);
    assert_eq!(
        ended.out,
        "migrated: 1 transactions\nmigrated: 2 checkpoints\nmigrated: 3 tenants\nup to date: schema 3\n"
    );
    for words in [&[][..], &["--check"]] {
        assert_eq!(migrate(&url, words).await.expect(0).out, "up to date: schema 3\n");
    }
}

#[tokio::test]
async fn a_database_that_is_not_there_is_told_without_the_password() {
    let ended = migrate("postgres://me:hunter2@127.0.0.1:1/gate", &[])
        .await
        .expect(1);
    assert!(
        ended.err.contains("127.0.0.1:1") && !ended.err.contains("hunter2"),
        "{ended:#?}"
    );
}

//! `sluicegate keys`, with the real binary: on a stopped gateway and on a running one.

use serde_json::json;

use crate::access::asked;
use crate::support::{TestApp, cli};

/// A configuration whose data is here.
fn config(data: &std::path::Path) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), format!("[store]\npath = {data:?}\n")).expect("writes");
    file
}

#[tokio::test]
async fn keys_are_made_and_revoked_whether_the_gateway_runs_or_not() {
    let app = TestApp::start().await;
    let config = config(app.data());
    let path = config.path().to_str().expect("UTF-8").to_owned();
    let keys = async |words: &[&str]| {
        let mut all = vec!["keys"];
        all.extend(words);
        all.extend(["--config", &path]);
        cli::run(&all).await
    };
    // Through the running gateway: it asks for keys from then on, at once.
    let made = keys(&["create", "--name", "first", "--scopes", "submit,read,operate"])
        .await
        .expect(0);
    let first = made.out.trim().to_owned();
    assert_eq!(made.out, format!("{first}\n"), "the key and nothing else");
    assert!(
        made.err.contains(&first[3..11]) && !made.err.contains(&first[12..]),
        "{}",
        made.err
    );
    app.get("/v1/whoami").await.problem(401, "SG-0018");
    let who = asked(&app, &first, "GET", "/v1/whoami", None)
        .await
        .expect(200)
        .json();
    assert_eq!(who["scopes"], json!(["submit", "read", "operate"]));
    let words = [
        "create",
        "--name",
        "erp",
        "--tenant",
        "acme",
        "--scopes",
        "read",
        "--expires-in-days",
        "90",
    ];
    let erp = keys(&words).await.expect(0).out.trim().to_owned();
    asked(&app, &erp, "GET", "/v1/transactions", None)
        .await
        .expect(200);
    let audit = asked(&app, &first, "GET", "/v1/audit", None)
        .await
        .expect(200)
        .json();
    assert_eq!(audit["items"][0]["who"], "cli");
    let listed = keys(&["list"]).await.expect(0).out;
    assert!(
        listed.lines().count() == 3 && listed.contains("acme") && listed.contains("until 2"),
        "{listed}"
    );
    assert!(!listed.contains(&erp[12..]), "{listed}");
    let revoked = keys(&["revoke", &erp[3..11]]).await.expect(0).out;
    assert!(revoked.contains("is revoked"), "{revoked}");
    asked(&app, &erp, "GET", "/v1/transactions", None)
        .await
        .problem(401, "SG-0018");
    let unknown = keys(&["revoke", "aaaaaaaa"]).await.expect(1);
    assert!(unknown.err.contains("no such key"), "{}", unknown.err);

    // And in the folder itself.
    let stopped = app.leave().await;
    let second = keys(&["create", "--name", "second"])
        .await
        .expect(0)
        .out
        .trim()
        .to_owned();
    keys(&["revoke", &first[3..11]]).await.expect(0);
    let listed = keys(&["list"]).await.expect(0).out;
    assert!(
        listed
            .lines()
            .nth(1)
            .is_some_and(|line| line.contains("submit,read") && line.contains("second")),
        "{listed}"
    );
    let app = stopped.reopen(|_| {}).await;
    asked(&app, &second, "GET", "/v1/transactions", None)
        .await
        .expect(200);
    asked(&app, &first, "GET", "/v1/transactions", None)
        .await
        .problem(401, "SG-0018");
    app.leave().await;
}

#[tokio::test]
async fn bad_words_are_refused_with_a_remedy() {
    for (words, expected) in [
        (&["create"][..], "--name"),
        (
            &["create", "--name", "x", "--scopes", "root"],
            "submit, read and operate",
        ),
        (&["create", "--name", "x", "--tenant", "A B"], "1 to 64"),
        (&["create", "--name", "x", "--expires-in-days", "0"], "1..=3650"),
    ] {
        let mut all = vec!["keys"];
        all.extend(words);
        let refused = cli::run(&all).await.expect(2);
        assert!(refused.err.contains(expected), "{}", refused.err);
    }
}

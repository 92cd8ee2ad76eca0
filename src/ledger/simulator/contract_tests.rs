//! The built-in contracts, called through the ledger one block at a time.

use super::testkit::Running;

fn assert_refused(answer: Result<String, String>, words: &str) {
    let message = answer.expect_err("refused");
    assert!(message.contains(words), "{message}");
}

#[tokio::test]
async fn basic_keeps_assets() {
    let running = Running::of(1);
    let basic = async |function: &str, args: &[&str]| running.invoke("basic", function, args).await;
    let asset = r#"{"ID":"a1","Color":"blue","Size":5,"Owner":"Tomoko","AppraisedValue":300}"#;
    let create = ["a1", "blue", "5", "Tomoko", "300"];
    assert_eq!(basic("CreateAsset", &create).await, Ok(String::new()));
    assert_refused(basic("CreateAsset", &create).await, "a1 already exists");
    assert_eq!(basic("ReadAsset", &["a1"]).await.as_deref(), Ok(asset));

    // The old owner comes back, as JSON.
    let old = basic("TransferAsset", &["a1", "Max"]).await;
    assert_eq!(old.as_deref(), Ok("\"Tomoko\""));
    let update = ["a1", "red", "6", "Jin", "-1"];
    assert_eq!(basic("UpdateAsset", &update).await, Ok(String::new()));
    let red = r#"{"ID":"a1","Color":"red","Size":6,"Owner":"Jin","AppraisedValue":-1}"#;
    assert_eq!(
        basic("CreateAsset", &["a0", "", "1", "", "1"]).await,
        Ok(String::new())
    );
    let all = running.query("basic", "GetAllAssets", &[]).await;
    assert!(
        all.starts_with(r#"[{"ID":"a0""#) && all.ends_with(&format!(",{red}]")),
        "{all}"
    );

    assert_eq!(basic("DeleteAsset", &["a1"]).await, Ok(String::new()));
    for gone in ["ReadAsset", "DeleteAsset"] {
        assert_refused(basic(gone, &["a1"]).await, "a1 does not exist");
    }
    assert_refused(basic("UpdateAsset", &create).await, "a1 does not exist");
}

#[tokio::test]
async fn basic_says_what_it_expects() {
    let running = Running::of(1);
    let basic = async |function: &str, args: &[&str]| running.invoke("basic", function, args).await;
    assert_refused(
        basic("CreateAsset", &["a1", "blue"]).await,
        "CreateAsset takes 5 arguments (id, color, size, owner, appraisedValue), got 2",
    );
    assert_refused(basic("ReadAsset", &[]).await, "takes 1 argument (id), got 0");
    assert_refused(basic("GetAllAssets", &["x"]).await, "takes no arguments, got 1");
    assert_refused(
        basic("CreateAsset", &["a1", "blue", "big", "T", "1"]).await,
        "size must be a whole number of 64 bits, got \"big\"",
    );
    assert_refused(
        basic("CreateAsset", &["", "b", "1", "T", "1"]).await,
        "id must not be empty",
    );
}

#[tokio::test]
async fn token_moves_money() {
    let running = Running::of(1);
    let token = async |function: &str, args: &[&str]| running.invoke("token", function, args).await;
    assert_eq!(token("Mint", &["alice", "100"]).await.as_deref(), Ok("100"));
    assert_eq!(
        token("Transfer", &["alice", "bob", "30"]).await,
        Ok(String::new())
    );
    assert_eq!(
        token("Transfer", &["alice", "alice", "70"]).await,
        Ok(String::new())
    );
    assert_eq!(token("BalanceOf", &["alice"]).await.as_deref(), Ok("70"));
    assert_eq!(token("BalanceOf", &["bob"]).await.as_deref(), Ok("30"));
    assert_eq!(token("BalanceOf", &["nobody"]).await.as_deref(), Ok("0"));

    assert_refused(
        token("Transfer", &["bob", "alice", "31"]).await,
        "insufficient funds: bob holds 30, 31 are needed",
    );
    assert_refused(
        token("Transfer", &["bob", "bob", "31"]).await,
        "insufficient funds",
    );
    for amount in ["-1", "+1", "1.0", "1e2", "", " 1", "ten"] {
        assert_refused(
            token("Mint", &["alice", amount]).await,
            "amount must be a whole number",
        );
    }
    let most = u128::MAX.to_string();
    assert_eq!(token("Mint", &["whale", &most]).await, Ok(most));
    assert_refused(token("Mint", &["whale", "1"]).await, "overflow");
    assert_refused(token("Transfer", &["alice", "whale", "1"]).await, "overflow");
    assert_refused(token("Mint", &["", "1"]).await, "account must not be empty");
}

#[tokio::test]
async fn counter_counts() {
    let running = Running::of(1);
    let counter = async |function: &str, args: &[&str]| running.invoke("counter", function, args).await;
    assert_eq!(counter("Get", &["c"]).await.as_deref(), Ok("0"));
    assert_eq!(counter("Add", &["c", "-2"]).await.as_deref(), Ok("-2"));
    assert_eq!(counter("Set", &["c", "40"]).await, Ok(String::new()));
    assert_eq!(counter("Add", &["c", "2"]).await.as_deref(), Ok("42"));
    assert_eq!(counter("Get", &["c"]).await.as_deref(), Ok("42"));

    let most = i128::MAX.to_string();
    assert_eq!(counter("Set", &["c", &most]).await, Ok(String::new()));
    assert_refused(counter("Add", &["c", "1"]).await, "overflow");
    assert_refused(
        counter("Set", &["c", "1.5"]).await,
        "value must be a whole number",
    );
    assert_refused(counter("Set", &["", "1"]).await, "name must not be empty");
}

#[tokio::test]
async fn contracts_do_not_see_each_other() {
    let running = Running::of(1);
    running.invoke("counter", "Set", &["k", "1"]).await.expect("set");
    running
        .invoke("token", "Mint", &["k", "2"])
        .await
        .expect("minted");
    assert_eq!(running.query("basic", "GetAllAssets", &[]).await, "[]");
    assert_eq!(running.query("counter", "Get", &["k"]).await, "1");
    assert_eq!(running.query("token", "BalanceOf", &["k"]).await, "2");
}

//! Cancel, retry and settle, and transactions that wait for their time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use sluicegate::clock::{Clock, ManualClock, SystemClock};
use sluicegate::domain::Timestamp;

use crate::support::scripted::{Act, Scripted};
use crate::support::{Answer, TestApp, add, eventually, with};
use crate::worker::settings;

impl TestApp {
    async fn act(&self, id: &str, action: &str) -> Answer {
        self.send(self.request("POST", &format!("/v1/transactions/{id}/{action}")))
            .await
    }

    async fn settle_by_hand(&self, id: &str, body: &Value) -> Answer {
        let path = format!("/v1/transactions/{id}/settle");
        self.send(self.request("POST", &path).json(body)).await
    }
}

#[tokio::test]
async fn what_waits_is_cancelled_for_good() {
    let app = TestApp::stalled().await;
    let id = app.post(&add("hits", 1)).await.expect(202).id();
    let cancelled = app.act(&id, "cancel").await.expect(200).json();
    assert_eq!(
        (&cancelled["status"], &cancelled["error"]["code"]),
        (&json!("failed"), &json!("cancelled"))
    );
    assert_eq!(cancelled["actions"][0]["action"], "cancel");
    let path = format!("/v1/transactions/{id}/cancel");
    let reason = app.request("POST", &path).json(&json!({"reason": "x"}));
    app.send(reason).await.fault(422, "SG-0002", "");
    let again = app.act(&id, "cancel").await.expect(200).json();
    assert_eq!(again, cancelled, "asked for again, it stays as it is");
    let app = app.reopen(crate::support::fast).await;
    app.settle(&add("other", 1)).await;
    assert_eq!(app.counter("hits").await, 0, "it never took effect");
    app.finish().await;
}

#[tokio::test]
async fn what_is_over_cannot_be_cancelled() {
    let app = TestApp::start().await;
    let done = app.settle(&add("hits", 1)).await;
    let word = json!({"outcome": "done", "note": "seen on the ledger"});
    app.settle_by_hand(&done.id(), &word)
        .await
        .problem(409, "SG-0023");
    let refused = app.act(&done.id(), "cancel").await.expect(409).json();
    assert_eq!(refused["code"], "SG-0023");
    assert!(
        refused["detail"].as_str().expect("text").contains("done already"),
        "{refused}"
    );
    for action in ["cancel", "retry", "settle"] {
        let path = format!("/v1/transactions/0195d6a8-0000-7000-8000-000000000000/{action}");
        let request = match action {
            "settle" => app.request("POST", &path).json(&word),
            _ => app.request("POST", &path),
        };
        let refused = app.send(request).await;
        refused.problem(404, "SG-0004");
    }
    app.finish().await;
}

/// Whatever a worker and a person do at the same time, one of them wins as a whole.
#[tokio::test]
async fn i2_cancelling_races_with_the_worker_and_one_of_them_wins() {
    let app = TestApp::start().await;
    let mut cancelled = 0_u64;
    for round in 0..200_u64 {
        let id = app.post(&add("hits", 1)).await.expect(202).id();
        if round % 3 == 0 {
            tokio::time::sleep(Duration::from_micros(500 * (round % 7))).await;
        }
        let answer = app.act(&id, "cancel").await;
        match answer.status {
            200 => cancelled += 1,
            409 => {}
            other => panic!("{other}: {}", answer.text),
        }
    }
    app.drain().await;
    let done = app.list("status=done").await.len() as u64;
    assert_eq!((done + cancelled, app.counter("hits").await), (200, json!(done)));
    app.finish().await;
}

#[tokio::test]
async fn a_retry_is_one_new_record_that_names_the_old_one() {
    let app = TestApp::start().await;
    let wrong = json!({"ledger": "main", "contract": "basic", "function": "TransferAsset", "args": ["none", "Tomoko"], "metadata": {"order": "1"}});
    let failed = app.settle(&wrong).await.json();
    assert_eq!(failed["status"], "failed");
    let id = failed["id"].as_str().expect("an id");
    let (one, two) = tokio::join!(app.act(id, "retry"), app.act(id, "retry"));
    assert_eq!(one.id(), two.id(), "however often it is asked for");
    let replayed = [&one, &two]
        .iter()
        .filter(|answer| answer.header("idempotent-replayed").is_some())
        .count();
    assert_eq!(replayed, 1);
    let retry = app.record(&one.id()).await;
    assert_eq!(
        (&retry["retry_of"], &retry["metadata"]),
        (&failed["id"], &failed["metadata"])
    );
    assert_eq!(app.record(id).await["retried_by"], retry["id"]);
    app.drain().await;
    let refused = app
        .act(&app.settle(&add("hits", 1)).await.id(), "retry")
        .await
        .expect(409)
        .json();
    assert_eq!(refused["code"], "SG-0023");
    app.finish().await;
}

/// Retention takes what is done before what has failed; what was run again must not be run a third time.
#[tokio::test]
async fn i2_a_retry_that_is_no_longer_kept_is_not_made_anew() {
    let ledger = Scripted::new(&[Act::Reject], true);
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let mut settings = settings();
    settings.retention.done = Some(Duration::from_secs(24 * 3_600));
    let app = TestApp::on(ledger.clone(), clock.clone(), settings).await;
    let failed = app.settle(&add("hits", 1)).await;
    assert_eq!(failed.json()["status"], "failed");
    let retry = app.act(&failed.id(), "retry").await.expect(202).id();
    eventually("it is done", async || {
        (app.record(&retry).await["status"] == "done").then_some(())
    })
    .await;
    let again = app.act(&failed.id(), "retry").await.expect(200);
    assert_eq!(
        (again.id(), again.header("idempotent-replayed")),
        (retry.clone(), Some("true"))
    );
    eventually("retention takes it", async || {
        clock.advance(Duration::from_secs(3_600));
        let found = app.get(&format!("/v1/transactions/{retry}")).await;
        (found.status == 404).then_some(())
    })
    .await;
    let refused = app.act(&failed.id(), "retry").await.problem(409, "SG-0023");
    assert!(
        refused["detail"].as_str().expect("a detail").contains(&retry),
        "{refused}"
    );
    assert_eq!(app.record(&failed.id()).await["retried_by"], json!(retry));
    assert_eq!(ledger.effects(), 1);
    app.finish().await;
}

#[tokio::test]
async fn i3_a_person_settles_what_the_ledger_cannot_tell() {
    for (body, status) in [
        (
            json!({"outcome": "done", "note": "in block 12", "tx_id": "abc", "block": 12, "result": {"n": 1}}),
            "done",
        ),
        (json!({"outcome": "failed", "note": "the bank says no"}), "failed"),
    ] {
        let ledger = Scripted::new(&[Act::LoseAll], false);
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let app = TestApp::on(ledger.clone(), clock.clone(), settings()).await;
        let id = app.post(&add("hits", 1)).await.expect(202).id();
        eventually("it is parked", async || {
            clock.advance(Duration::from_secs(10));
            (app.record(&id).await["stage"] == "parked").then_some(())
        })
        .await;
        let refused = app.act(&id, "cancel").await.expect(409).json();
        assert_eq!(refused["code"], "SG-0023");
        let bad = app
            .settle_by_hand(&id, &json!({"outcome": "perhaps", "block": 3}))
            .await
            .expect(422)
            .json();
        assert_eq!(bad["errors"].as_array().expect("errors").len(), 2, "{bad}");
        let settled = app.settle_by_hand(&id, &body).await.expect(200).json();
        assert_eq!(settled["status"], status);
        assert_eq!(settled["actions"][0]["note"], body["note"]);
        if status == "done" {
            assert_eq!(
                (&settled["tx_id"], &settled["block"], &settled["result"]),
                (&body["tx_id"], &body["block"], &body["result"])
            );
        }
        assert_eq!(settled, app.record(&id).await);
        app.settle_by_hand(&id, &body).await.expect(409);
        assert_eq!(
            ledger.prepared.load(Ordering::SeqCst),
            1,
            "it was never submitted anew"
        );
        app.finish().await;
    }
}

#[tokio::test]
async fn nothing_is_submitted_before_its_time() {
    let app = TestApp::start().await;
    let moment = SystemClock.now().plus(Duration::from_millis(1_500));
    let later = with(add("hits", 1), "not_before", json!(moment.to_string()));
    let accepted = app.post(&later).await.expect(202).json();
    assert_eq!(
        (&accepted["not_before"], &accepted["stage"]),
        (&json!(moment.to_string()), &json!("queued"))
    );
    // It holds nobody up.
    app.settle(&add("hits", 1)).await;
    let id = accepted["id"].as_str().expect("an id");
    assert_eq!(app.record(id).await["attempts"], 0);
    app.drain().await;
    let attempts = app
        .get(&format!("/v1/transactions/{id}/attempts"))
        .await
        .expect(200)
        .json();
    let started = attempts["items"][0]["started_at"].as_str().expect("a moment");
    assert!(
        Timestamp::parse_rfc3339(started).expect("a moment") >= moment,
        "{started}"
    );
    let hour = SystemClock.now().plus(Duration::from_secs(3_600));
    let late = with(
        with(later, "not_before", hour.to_string()),
        "expires_in_seconds",
        60,
    );
    let refused = app.post(&late).await.expect(422).json();
    assert_eq!(refused["errors"][0]["pointer"], "/not_before");
    let never = with(add("hits", 1), "not_before", json!("tomorrow"));
    let refused = app.post(&never).await.expect(422).json();
    assert_eq!(refused["errors"][0]["pointer"], "/not_before");
    app.finish().await;
}

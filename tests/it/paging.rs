//! Pages of a listing: complete, without a record twice, whatever happens in between.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::Value;

use crate::support::{TestApp, add};

/// Reads page after page, doing something between them. Answers the ids in order.
async fn all_pages(app: &TestApp, query: &str, limit: usize, mut between: impl AsyncFnMut()) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut path = format!("/v1/transactions?limit={limit}&{query}");
        if let Some(cursor) = cursor {
            path += &format!("&cursor={cursor}");
        }
        let page: Value = app.get(&path).await.expect(200).json();
        let items = page["items"].as_array().expect("items");
        assert!(items.len() <= limit);
        ids.extend(
            items
                .iter()
                .map(|item| item["id"].as_str().expect("an id").to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return ids,
        }
        between().await;
    }
}

async fn accept(app: &TestApp, count: usize) -> BTreeSet<String> {
    let ids = (0..count)
        .map(|number| async move { app.post(&add(&format!("k{number}"), 1)).await.expect(202).id() });
    join_all(ids).await.into_iter().collect()
}

fn newest_first(ids: &BTreeSet<String>) -> Vec<String> {
    ids.iter().rev().cloned().collect()
}

#[tokio::test]
async fn pages_of_every_size_give_the_same_listing() {
    let app = TestApp::start().await;
    let expected = newest_first(&accept(&app, 23).await);
    app.drain().await;
    for limit in [1, 2, 7, 22, 23, 24, 500] {
        assert_eq!(
            all_pages(&app, "", limit, async || {}).await,
            expected,
            "{limit} a page"
        );
        assert_eq!(all_pages(&app, "status=done", limit, async || {}).await, expected);
        assert!(
            all_pages(&app, "status=failed", limit, async || {})
                .await
                .is_empty()
        );
    }
    app.finish().await;
}

#[tokio::test]
async fn the_page_has_fifty_unless_told() {
    let app = TestApp::stalled().await;
    let expected = newest_first(&accept(&app, 51).await);
    let page = app.get("/v1/transactions").await.expect(200).json();
    assert_eq!(page["items"].as_array().expect("items").len(), 50);
    assert_eq!(page["items"][0]["id"], expected[0]);
    assert!(page["next_cursor"].is_string());
    app.leave().await;
}

#[tokio::test]
async fn what_arrives_meanwhile_moves_no_page() {
    let app = TestApp::start().await;
    // Some of these are still on their way from pending to done while the pages are read.
    let expected = newest_first(&accept(&app, 60).await);
    let mut more = BTreeSet::new();
    let read = all_pages(&app, "", 7, async || more.extend(accept(&app, 3).await)).await;
    assert_eq!(read, expected);
    assert!(more.len() >= 24, "something arrived between the pages");
    app.drain().await;
    let all: BTreeSet<String> = expected.into_iter().chain(more).collect();
    assert_eq!(all_pages(&app, "", 7, async || {}).await, newest_first(&all));
    app.finish().await;
}

#[tokio::test]
async fn a_filtered_listing_is_complete_while_its_records_settle() {
    let app = TestApp::start().await;
    let all = accept(&app, 60).await;
    let wanted = app.list("function=Add").await;
    assert_eq!(wanted.len(), 60);
    let read = all_pages(&app, "contract=counter&function=Add", 5, async || {}).await;
    assert_eq!(read, newest_first(&all));
    app.drain().await;
    app.finish().await;
}

#[tokio::test]
async fn a_cursor_belongs_to_its_filter() {
    let app = TestApp::stalled().await;
    accept(&app, 5).await;
    let cursor = async |query: &str| {
        let page = app
            .get(&format!("/v1/transactions?limit=2&{query}"))
            .await
            .expect(200)
            .json();
        page["next_cursor"].as_str().expect("a cursor").to_owned()
    };
    let filter = "status=pending&contract=counter";
    let (of_all, of_some) = (cursor("").await, cursor(filter).await);
    // In any order, and with any size of page, it is the same listing.
    app.list(&format!("contract=counter&cursor={of_some}&status=pending"))
        .await;
    for (cursor, query) in [
        (&of_all, filter),
        (&of_all, "status=pending"),
        (&of_some, ""),
        (&of_some, "status=pending"),
        (&of_some, "status=pending&contract=counte"),
        (&of_some, "status=pending&contract=counter&function=Add"),
        (&of_some, "stage=queued&contract=counter"),
        (&of_some, "status=pending&metadata.contract=counter"),
    ] {
        let answer = app
            .get(&format!("/v1/transactions?{query}&cursor={cursor}"))
            .await;
        let detail = answer.fault(400, "SG-0009", "#query/cursor");
        assert!(detail.contains("another filter"), "{query}: {detail}");
    }
    app.leave().await;
}

#[tokio::test]
async fn a_cursor_holds_over_a_restart() {
    let app = TestApp::stalled().await;
    let expected = newest_first(&accept(&app, 9).await);
    let first = app.get("/v1/transactions?limit=4").await.expect(200).json();
    let cursor = first["next_cursor"].as_str().expect("a cursor").to_owned();
    let app = app.reopen(crate::support::stall).await;
    let rest = app.list(&format!("cursor={cursor}")).await;
    let rest: Vec<&str> = rest
        .iter()
        .map(|item| item["id"].as_str().expect("an id"))
        .collect();
    assert_eq!(rest, expected[4..]);
    app.leave().await;
}

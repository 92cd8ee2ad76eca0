//! What every store must do with records that are large: bound what it reads by bytes, and leave none out.

use std::sync::Arc;

use super::Filter;
use super::conformance::{main_ledger, on_every_store, soon, transaction};
use crate::domain::{Argument, Status};

/// Records of about a megabyte. Half of them compress to almost nothing, which a database may do.
#[test]
fn large_records_are_read_a_few_at_a_time_and_all_of_them() {
    on_every_store(|store| async move {
        let mut all = Vec::new();
        for n in 0..24 {
            let mut tx = transaction("main", None);
            let text: String = match n % 2 {
                0 => "x".repeat(1 << 20),
                _ => (0..(1 << 19))
                    .map(|_| char::from(rand::random_range(b'a'..=b'z')))
                    .collect(),
            };
            let request = Arc::make_mut(&mut tx.request);
            request.args = vec![Argument::text(&text)];
            request.expires_in_seconds = Some(1);
            store.insert(&tx).await.expect("inserts");
            all.push(tx.id);
        }
        for filter in [
            Filter::default(),
            Filter {
                function: Some("Add".to_owned()),
                status: Some(Status::Pending),
                ..Filter::default()
            },
        ] {
            let (mut found, mut cursor, mut pages) = (Vec::new(), None, 0);
            loop {
                let page = store.list(&filter, cursor, 500).await.expect("lists");
                assert!(
                    (1..=12).contains(&page.items.len()),
                    "{} at once",
                    page.items.len()
                );
                found.extend(page.items.iter().map(|tx| tx.id));
                pages += 1;
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            found.reverse();
            assert_eq!((found, pages), (all.clone(), 3));
        }
        let expired = store.expired(soon(), 500).await.expect("reads");
        assert!((1..=12).contains(&expired.len()), "{} at once", expired.len());
        let stage = store.submitted(&main_ledger(), 500).await.expect("reads");
        assert!(stage.is_empty());
    });
}

//! More than a gateway can pass on, in the small: what has to hold whatever the machine. `benches/overload.rs` runs
//! the same scenarios in the large and tells the times.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed; helpers are no different"
)]

#[path = "../../benches/support/mod.rs"]
mod support;

use std::time::Duration;

use support::{overload, streams};

const BRIEF: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn i6_ten_times_the_rate_goes_out_at_the_rate() {
    overload::ten_times(150, BRIEF, 2 * BRIEF, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_a_backlog_is_on_the_disk() {
    overload::backlog(5_000, 2_000, BRIEF, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_ledger_that_is_down_gets_everything_once_when_it_is_back() {
    overload::down(200, BRIEF, 3 * BRIEF).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_a_ledger_that_answers_far_too_late_gets_everything_once() {
    overload::slow(4 * BRIEF, BRIEF, 2 * BRIEF).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_a_hot_key_does_not_hold_up_the_others() {
    overload::hot_key(40, BRIEF).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_wait_are_all_told() {
    overload::waiters(500, BRIEF, 20 * BRIEF).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_follow_are_all_told() {
    streams::streams(500, BRIEF, 20 * BRIEF).await;
}

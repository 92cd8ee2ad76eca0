//! The gateway as its clients and operators meet it: over HTTP, on the command line, and when it is killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed; helpers are no different"
)]

mod accept;
mod attempts;
mod backpressure;
mod bad_bodies;
mod bad_requests;
mod bad_sockets;
mod bad_values;
#[path = "../support/basics.rs"]
mod basics;
mod cli_client;
mod cli_migrate;
mod cli_server;
mod cli_store;
mod conflicts;
mod crash;
mod devnet;
mod disk;
mod idempotency;
mod listing;
mod operations;
mod paging;
#[path = "../support/postgres.rs"]
mod postgres;
mod query;
mod restart;
mod support;
mod waiting;
mod worker;

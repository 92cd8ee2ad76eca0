//! Gateways as an operator runs them, real processes on a real broker and a real database, and everything that
//! may go wrong between them. The ledger is a Fabric network, a devnet in the test's own process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed; helpers are no different"
)]

#[path = "../support/basics.rs"]
mod basics;
mod chaos;
mod compose;
mod faults;
mod load;
mod node;
mod oracle;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/rabbitmq.rs"]
mod rabbitmq;
mod recorder;
mod site;
mod support;
mod takeover;

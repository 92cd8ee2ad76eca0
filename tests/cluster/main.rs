//! Gateways as an operator runs them, real processes on a real broker and a real database, and everything that
//! may go wrong between them. The ledger is a Fabric network, a devnet, which is a process
//! as well.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed; helpers are no different"
)]

#[cfg(feature = "failpoints")]
mod agenda;
#[path = "../support/basics.rs"]
mod basics;
mod blows;
mod campaign;
mod clocks;
mod compose;
#[path = "../support/disk.rs"]
mod disk;
mod faults;
mod ledger;
mod load;
#[cfg(feature = "failpoints")]
mod matrix;
mod moves;
mod node;
mod observers;
mod oracle;
mod plan;
#[path = "../support/postgres.rs"]
mod postgres;
mod promises;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/rabbitmq.rs"]
mod rabbitmq;
#[cfg(feature = "failpoints")]
#[allow(dead_code, reason = "shared with the other tests; each uses a part of it")]
#[path = "../support/receiver.rs"]
mod receiver;
mod rollback;
mod schedule;
mod site;
mod steering;
mod support;
mod takeover;
mod versions;

//! The gateway as its clients and operators meet it: over HTTP, on the command line, and when it is killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed; helpers are no different"
)]

mod accept;
mod access;
mod access_tenants;
mod access_tokens;
mod actions;
mod adaptive;
mod archive;
mod attempts;
mod backpressure;
mod backup;
mod bad_bodies;
mod bad_requests;
mod bad_sockets;
mod bad_values;
#[path = "../support/basics.rs"]
mod basics;
mod batch;
mod bench;
mod cli_client;
mod cli_keys;
mod cli_migrate;
mod cli_server;
mod cli_store;
mod clients;
mod conflicts;
mod console;
mod contract;
mod crash;
mod damage;
mod damage_cli;
mod default_contract;
mod deploy;
mod deploy_helm;
mod deploy_runbooks;
mod devnet;
mod disk;
mod events;
mod fabric_client;
mod fabric_faults;
mod fabric_peers;
mod formats;
mod hygiene;
mod idempotency;
mod listing;
mod operations;
mod otlp;
mod paging;
#[path = "../support/postgres.rs"]
mod postgres;
mod power;
mod power_disk;
#[allow(dead_code, reason = "shared with the cluster's tests; each uses a part of it")]
#[path = "../support/proxy.rs"]
mod proxy;
mod query;
#[path = "../support/rabbitmq.rs"]
mod rabbitmq;
mod reload;
mod restart;
mod resume;
mod rewound;
mod schemathesis;
#[path = "../support/disk.rs"]
mod small_disk;
mod steering;
mod support;
mod tls;
mod waiting;
mod webhooks;
mod webhooks_access;
mod webhooks_api;
mod webhooks_backlog;
mod webhooks_targets;
mod worker;

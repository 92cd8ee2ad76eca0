//! Sluicegate: an asynchronous transaction gateway for ledgers.
//!
//! A caller POSTs a transaction and gets `202 Accepted` in milliseconds; a rate-limited worker brings it to
//! the ledger, rides out conflicts, and moves the record to `done` or `failed`. **What was acknowledged is
//! never lost and never takes effect twice, whatever crashes.**
//!
//! The journey of a transaction, as a walk through the modules:
//!
//! 1. [`auth`] says who calls; [`http`] parses and bounds the request; [`gateway`] checks it and makes a [`domain::Transaction`].
//! 2. [`store`] writes it with its indexes, its idempotency entry and its due mark in one durable group
//!    commit. Only then is `202` sent.
//! 3. [`queue`] hands its id to the [`worker`] lane of its ledger: the record decides, the id is a hint.
//! 4. The lane takes a slot and a permit, claims the record, and lets the [`ledger`] prepare it. Bytes and
//!    identifier are stored before the first byte leaves.
//! 5. The ledger's verdict is one of five [`domain::Outcome`]s; [`domain::State::apply`] is the only way from
//!    state to state.
//! 6. The new state is stored, and whoever waits is told through [`notify`]; who wants to be told elsewhere, by
//!    [`webhooks`].
//!
//! With a broker, [`relay`] announces there what the store says is due. [`reconciler`] does what nobody asks for: deadlines and retention; what retention removes, [`archive`] can keep. [`audit`] remembers what operators did. [`app`] puts it all together;
//! [`config`] says how; [`cli`] is the command line. [`devnet`] is a ledger to develop against, a process of its own. `docs/ARCHITECTURE.md` has the same walk with the
//! invariants and the tests that defend them.

pub mod app;
pub mod archive;
pub mod audit;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod devnet;
pub mod domain;
pub(crate) mod fabric;
pub mod failpoint;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod gateway;
pub mod http;
pub mod kv;
pub mod ledger;
pub mod notify;
pub mod queue;
pub mod reconciler;
pub mod relay;
pub(crate) mod reread;
pub(crate) mod share;
pub mod store;
pub mod telemetry;
pub mod webhooks;
pub mod worker;

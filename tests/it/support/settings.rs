//! Settings for tests: how fast, how slow, how the ledger cuts its blocks.

use std::num::NonZeroU32;
use std::time::Duration;

use sluicegate::config::{BackendSettings, LedgerSettings, Settings, SimulatorSettings};

/// The one ledger there is.
pub(crate) fn ledger(settings: &mut Settings) -> &mut LedgerSettings {
    settings.ledgers.values_mut().next().expect("a ledger")
}

pub(crate) fn simulator(batch_timeout_ms: u64, max_message_count: u32) -> BackendSettings {
    BackendSettings::Simulator(SimulatorSettings {
        batch_timeout: Duration::from_millis(batch_timeout_ms),
        max_message_count: NonZeroU32::new(max_message_count).expect("not zero"),
    })
}

/// The first submission would go out after a quarter of an hour.
pub(crate) fn stall(settings: &mut Settings) {
    ledger(settings).worker.rate_per_second = 0.001;
}

/// The opposite of [`stall`].
pub(crate) fn fast(settings: &mut Settings) {
    let worker = &mut ledger(settings).worker;
    worker.rate_per_second = 10_000.0;
    worker.burst = NonZeroU32::new(1_000).expect("not zero");
    worker.batch_timeout = Duration::from_millis(5);
}

//! A clock for each gateway, that the test sets: Debian's `faketime`, a library that stands between the process and the
//! system's clock. What measures stretches of time in the process stays right, as it does on a machine whose clock is set.

use std::path::Path;

use crate::basics::faketime;
use crate::plan::Plan;

/// A plan for gateways whose clocks can be set. Each has to be set before its gateway starts.
pub(crate) fn to_set(plan: Plan) -> Plan {
    let library = faketime().expect("the package faketime");
    plan.variable("LD_PRELOAD", library.to_str().expect("UTF-8"))
        .variable("FAKETIME_TIMESTAMP_FILE", "SITE/clock-NODE")
        // Read at every look at the clock, so that it is set from one moment to the next.
        .variable("FAKETIME_NO_CACHE", "1")
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .variable("NO_FAKE_STAT", "1")
}

/// Sets the clock of a gateway so many seconds ahead; behind, if it is negative.
pub(crate) fn set(site: &Path, number: usize, ahead: i64) {
    let clock = site.join(format!("clock-{number}"));
    let new = clock.with_extension("new");
    std::fs::write(&new, format!("{ahead:+}")).expect("writes");
    // Whole or not at all, whenever it is read.
    std::fs::rename(new, clock).expect("renames");
}

/// Removes what the library leaves behind when its process is killed.
pub(crate) fn clean_up(process: u32) {
    for name in [
        format!("faketime_shm_{process}"),
        format!("sem.faketime_sem_{process}"),
    ] {
        let _absent = std::fs::remove_file(Path::new("/dev/shm").join(name));
    }
}

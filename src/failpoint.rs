//! The gaps between two steps of a transaction, where a test can end this process or hold a thread.
//!
//! They are there only with the feature `failpoints`, which no release has. `serve` then arms those that the
//! variable `FAILPOINTS` names, in the language of the crate `fail`:
//! `FAILPOINTS='claim-before-ack=5*off->return'` lets five pass and ends the process at the sixth;
//! `sleep(500)` and `pause` hold whoever gets there.
//!
//! The end is SIGKILL: nothing is unwound, flushed or said. `tests/cluster/matrix.rs` does it at every one.

/// Every gap with what has happened before it and what has not, in the order of the journey.
pub const ALL: [(&str, &str); 41] = [
    ("accept-before-store", "a request is good; nothing is stored"),
    (
        "store-before-commit",
        "a group of writes is complete; nothing of it has left the process",
    ),
    (
        "store-before-sync",
        "an embedded engine has the group; the disk need not have it",
    ),
    ("store-after-commit", "the group is durable; nobody is answered"),
    (
        "accept-before-reply",
        "the record is durable; no answer is written",
    ),
    ("accept-after-reply", "the socket has an answer"),
    (
        "queue-after-declare",
        "the broker has the queue; nobody noted that it is new",
    ),
    (
        "announce-before-publish",
        "ids are read from the due marks; the broker has none of them",
    ),
    (
        "announce-before-confirm",
        "messages are handed over; none is confirmed",
    ),
    (
        "announce-before-note",
        "the broker has the messages; the marks do not say so",
    ),
    ("announce-after-note", "the marks say that they are announced"),
    (
        "lost-before-put-back",
        "messages are known to be lost; their marks say announced",
    ),
    ("lost-after-put-back", "their marks are due again"),
    (
        "claim-before-store",
        "deliveries are read and judged; no claim is stored",
    ),
    (
        "claim-before-ack",
        "the claims are stored, with their bytes if those were prepared at once; the queue is not told",
    ),
    ("ack-before-told", "the queue has to be told; the broker is not"),
    ("ack-after-told", "the broker is told"),
    (
        "prepare-before-call",
        "a record is about to be claimed, or is; the ledger is not asked to prepare it",
    ),
    (
        "prepare-before-store",
        "the ledger has prepared a batch; its bytes are not stored",
    ),
    (
        "submit-before-send",
        "bytes and identifier are stored; they have not left",
    ),
    (
        "submit-after-reply",
        "one of a batch was sent and answered, or given up; others are under way",
    ),
    ("outcome-before-store", "outcomes are known; they are not stored"),
    (
        "outcome-before-told",
        "an outcome is stored; nobody who waits is told",
    ),
    (
        "retry-before-told",
        "a conflict or an outage is stored, with the time of the next try",
    ),
    (
        "check-before-lookup",
        "a check is claimed; the ledger is not asked",
    ),
    (
        "check-after-lookup",
        "the ledger has answered; nothing is stored or sent again",
    ),
    (
        "adopt-before-store",
        "the lane has a consumer; due checks are not put off",
    ),
    (
        "adopt-after-store",
        "due checks are put off; outcomes are not listened for",
    ),
    (
        "checkpoint-before-store",
        "outcomes are stored; the checkpoint is behind them",
    ),
    ("checkpoint-after-store", "the checkpoint is stored"),
    (
        "webhook-queued",
        "deliveries of what has settled are stored; nothing of them is sent",
    ),
    ("webhook-sent", "a receiver has answered; no delivery says so"),
    ("expire-before-store", "deadlines have passed; no record says so"),
    (
        "expire-after-store",
        "records are expired; nobody who waits is told",
    ),
    ("prune-before-store", "retention is due; nothing is removed"),
    ("prune-after-store", "old records are removed"),
    (
        "archive-before-put",
        "a portion of old records is read; the archive has nothing of it",
    ),
    (
        "archive-before-verify",
        "the archive has the portion; nobody has looked whether it is right",
    ),
    (
        "archive-before-remove",
        "the portion was read back and is right; the store still has it, too",
    ),
    (
        "stop-before-drain",
        "the process was told to stop; what is under way goes on",
    ),
    (
        "stop-after-drain",
        "nothing is under way; queue and store are open",
    ),
];

/// This gap is reached.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn reached(_name: &'static str) {}

/// This gap is reached.
#[cfg(feature = "failpoints")]
pub(crate) fn reached(name: &'static str) {
    fail::fail_point!(name, |_| {
        let gone = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // Nothing may happen after this line, so not even an error may be handled.
        unreachable!("a process cannot refuse SIGKILL: {gone:?}")
    });
}

/// Arms what `FAILPOINTS` names.
///
/// # Errors
/// If it names what is not there, or says what cannot be done.
#[cfg(feature = "failpoints")]
#[expect(clippy::disallowed_methods, reason = "for tests only, and no setting")]
pub(crate) fn arm() -> anyhow::Result<()> {
    let wanted = std::env::var("FAILPOINTS").unwrap_or_default();
    for one in wanted.split(';').map(str::trim).filter(|one| !one.is_empty()) {
        let (name, action) = one.split_once('=').unwrap_or((one, ""));
        anyhow::ensure!(
            ALL.iter().any(|(known, _)| *known == name),
            "FAILPOINTS: there is no point {name:?}; see ALL in src/failpoint.rs"
        );
        fail::cfg(name, action).map_err(|words| {
            anyhow::anyhow!("FAILPOINTS: {one:?}: {words}; write for example {name}=5*off->return")
        })?;
    }
    tracing::warn!(
        armed = wanted,
        "a build with failpoints, for tests only; never run it in production"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::ALL;

    /// Every name in a call of `reached` below `folder`.
    fn used(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                used(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let source = std::fs::read_to_string(&path).expect("text");
                let calls = source.split("failpoint::reached(\"").skip(1);
                found.extend(calls.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
    }

    #[test]
    fn every_gap_is_in_the_code_and_every_one_in_the_code_is_listed() {
        let mut found = BTreeSet::new();
        used(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        let listed: BTreeSet<_> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(listed.len(), ALL.len(), "a name is there twice");
        assert_eq!(found, listed);
    }
}

//! What has to hold of a configuration, whatever is in the file and in the environment.

#![allow(clippy::expect_used, reason = "a broken property panics")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::{BackendSettings, Effective, Origin, QueueSettings, Settings, StoreSettings, merge};

/// A file, then behind a zero byte lines of the environment, `NAME=value`.
pub(crate) fn configuration(data: &[u8]) {
    let (file, environment) = match data.iter().position(|byte| *byte == 0) {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[][..]),
    };
    let variables = environment.split(|byte| *byte == b'\n').filter_map(|line| {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b'=')?);
        let os = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((os(name), os(&value[1..])))
    });
    match merge(Some(("config.toml", file)), variables) {
        Ok((settings, effective)) => shown_as_it_is(&settings, &effective),
        Err(error) => {
            let lines = 1 + file.iter().filter(|byte| **byte == b'\n').count();
            assert!(!error.problems.is_empty());
            assert!(error.problems.is_sorted());
            for problem in error.problems {
                assert!(
                    !problem.what.is_empty() && !problem.remedy.is_empty(),
                    "{problem}"
                );
                if let Origin::Line(_, line) = problem.origin {
                    assert!((1..=lines).contains(&line), "{problem}");
                }
            }
        }
    }
}

/// What `check-config` shows, read as a file, gives the same settings. Secrets are not shown, so parts that may hold
/// one are left out.
fn shown_as_it_is(settings: &Settings, effective: &[Effective]) {
    let may_hold_a_secret = matches!(settings.store, StoreSettings::Postgres(_))
        || matches!(settings.queue, QueueSettings::RabbitMq(_))
        || settings.archive.is_some()
        || settings
            .ledgers
            .values()
            .any(|ledger| matches!(ledger.backend, BackendSettings::Fabric(_)));
    if may_hold_a_secret {
        return;
    }
    let lines: Vec<_> = effective.iter().map(ToString::to_string).collect();
    let shown = lines.join("\n");
    let (again, _) = merge(Some(("shown.toml", shown.as_bytes())), []).expect("what is shown is valid");
    assert_eq!(again, *settings, "{shown}");
}

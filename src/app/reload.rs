//! The configuration read again while the gateway runs: what SIGHUP does.
//!
//! It is checked as at a start, and taken over as a whole or not at all. What cannot change while it runs stays as it is and
//! is named. Nothing is kept: after a crash, the next start reads the same file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::{self, Effective, LedgerSettings, Loaded, Settings, WorkerSettings};
use crate::domain::LedgerName;
use crate::gateway::{Caller, Gateway, Misfit};

/// How the audit log calls whoever sends the signal, and what they did.
const SIGNAL: &str = "SIGHUP";

/// Reads the configuration again.
pub struct Reloads {
    file: Option<PathBuf>,
    /// What the command line makes of what is read.
    adjust: Box<dyn Fn(&mut Settings) + Send + Sync>,
    /// What runs.
    settings: Settings,
    /// What runs, by key.
    effective: BTreeMap<String, String>,
}

/// A key whose value is another one than that which runs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    key: String,
    old: Option<String>,
    new: Option<String>,
    /// Whether it can change while the gateway runs.
    runs: bool,
}

impl Reloads {
    /// For a gateway that runs with what was `loaded` from `file`, and what `adjust` made of it.
    pub fn new(
        file: Option<PathBuf>,
        loaded: Loaded,
        adjust: impl Fn(&mut Settings) + Send + Sync + 'static,
    ) -> (Self, Settings) {
        let mut settings = loaded.settings;
        adjust(&mut settings);
        let reloads = Self {
            file,
            adjust: Box::new(adjust),
            settings: settings.clone(),
            effective: by_key(&loaded.effective),
        };
        (reloads, settings)
    }

    /// Reads it now, and takes over what can be taken over. Tells in the log what came of it.
    pub async fn reload(&mut self, gateway: &Arc<Gateway>) {
        let file = self.file.clone();
        let read = tokio::task::spawn_blocking(move || config::load(file.as_deref())).await;
        let loaded = match read {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(error)) => {
                tracing::error!(
                    problems = error.problems.len(),
                    "the configuration has mistakes; nothing was taken over"
                );
                error
                    .problems
                    .iter()
                    .for_each(|problem| tracing::error!("{problem}"));
                return;
            }
            Err(error) => {
                tracing::error!(%error, "the configuration could not be read");
                return;
            }
        };
        self.take_over(gateway, loaded).await;
    }

    async fn take_over(&mut self, gateway: &Arc<Gateway>, loaded: Loaded) {
        let Loaded {
            settings: mut wanted,
            file,
            effective,
        } = loaded;
        (self.adjust)(&mut wanted);
        let effective = by_key(&effective);
        let ledgers =
            |name: &str| self.settings.ledgers.contains_key(name) && wanted.ledgers.contains_key(name);
        let changes = changes(&self.effective, &effective, ledgers);
        let taken = merged(&self.settings, &wanted);
        if let Err(misfits) = gateway.configure(&taken) {
            tell(&misfits);
            return;
        }
        let overridden = gateway.overridden();
        for change in &changes {
            let (old, new) = (shown(change.old.as_ref()), shown(change.new.as_ref()));
            match change.runs {
                true => {
                    tracing::info!(key = change.key, old, new, "the configuration changed");
                    if overridden.contains(&change.key) {
                        tracing::warn!(
                            key = change.key,
                            "what was set through the API lies over this and still holds; clear it there"
                        );
                    }
                }
                false => tracing::warn!(key = change.key, old, new, "this change takes a restart"),
            }
        }
        // Passwords and keys are compared, and not shown.
        let hidden = taken != wanted && changes.iter().all(|change| change.runs);
        if hidden {
            tracing::warn!("a secret has changed, which takes a restart");
        }
        if changes.is_empty() && !hidden {
            tracing::info!("the configuration was read again and is as it was");
            return;
        }
        self.settings = taken;
        let runs = changes.iter().filter(|change| change.runs);
        for Change { key, new, .. } in runs {
            match new {
                Some(value) => self.effective.insert(key.clone(), value.clone()),
                None => self.effective.remove(key),
            };
        }
        let target = file.map_or_else(|| "the environment".to_owned(), |file| file.display().to_string());
        let by = Caller {
            subject: SIGNAL.to_owned(),
            ..Caller::anonymous()
        };
        let audit = gateway.audit();
        let written = audit.record(&by, SIGNAL, &target, Some(detail(&changes)));
        if let Err(error) = written.await {
            tracing::error!(%error, "the configuration was taken over, and the audit log does not have it");
        }
    }
}

/// What runs after `wanted` was read: of all that cannot change while it runs, what ran before.
fn merged(runs: &Settings, wanted: &Settings) -> Settings {
    let ledger = |(name, ledger): (&LedgerName, &LedgerSettings)| {
        let mut ledger = ledger.clone();
        if let Some(wanted) = wanted.ledgers.get(name) {
            ledger.worker = WorkerSettings {
                // The ledger was opened with bounds that fit to it.
                lease: ledger.worker.lease,
                ..wanted.worker
            };
            ledger.retry = wanted.retry;
        }
        (name.clone(), ledger)
    };
    let mut merged = runs.clone();
    merged.ledgers = runs.ledgers.iter().map(ledger).collect();
    merged.backpressure = wanted.backpressure;
    merged.tenants = wanted.tenants.clone();
    merged.log.level = wanted.log.level.clone();
    merged
}

/// Everything that differs. `stays` says which ledgers are in both; of the others, only the name is told.
fn changes(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
    stays: impl Fn(&str) -> bool,
) -> Vec<Change> {
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut found: Vec<Change> = Vec::new();
    for key in keys {
        let (old, new) = (old.get(key), new.get(key));
        if old == new {
            continue;
        }
        let ledger = key.strip_prefix("ledgers.").and_then(|rest| rest.split_once('.'));
        let change = match ledger {
            Some((name, _)) if !stays(name) => Change {
                key: format!("ledgers.{name}"),
                old: old.map(|_| "configured".to_owned()),
                new: new.map(|_| "configured".to_owned()),
                runs: false,
            },
            _ => Change {
                key: key.clone(),
                old: old.cloned(),
                new: new.cloned(),
                runs: runs(key, ledger.map(|(_, rest)| rest)),
            },
        };
        if found.last() != Some(&change) {
            found.push(change);
        }
    }
    found
}

/// Whether a key can change while the gateway runs: the counterpart of [`merged`]. `of_ledger` is what follows a ledger's
/// name.
fn runs(key: &str, of_ledger: Option<&str>) -> bool {
    match of_ledger {
        Some(rest) => {
            let steerable = ["retry.", "adaptive.", "worker."];
            steerable.iter().any(|section| rest.starts_with(section)) && rest != "worker.lease_seconds"
        }
        None => key == "log.level" || key.starts_with("backpressure.") || key.starts_with("tenants."),
    }
}

fn by_key(effective: &[Effective]) -> BTreeMap<String, String> {
    let entry = |one: &Effective| (one.key.clone(), one.value.clone());
    effective.iter().map(entry).collect()
}

fn shown(value: Option<&String>) -> &str {
    value.map_or("(not set)", String::as_str)
}

fn tell(misfits: &[Misfit]) {
    tracing::error!(
        "what was set through the API does not fit the configuration; nothing was taken over. Clear it (DELETE /v1/ledgers/{{name}}/overrides), or configure what fits"
    );
    for Misfit { ledger, faults } in misfits {
        for fault in faults {
            tracing::error!(%ledger, field = fault.pointer, "{}", fault.detail);
        }
    }
}

fn detail(changes: &[Change]) -> Value {
    let of = |runs: bool| -> Vec<Value> {
        let some = changes.iter().filter(|change| change.runs == runs);
        some.map(|Change { key, old, new, .. }| json!({"key": key, "old": old, "new": new}))
            .collect()
    };
    json!({"changed": of(true), "takes_a_restart": of(false)})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn what_takes_a_restart_is_told_from_what_does_not() {
        let old = all(&[
            ("http.listen", "1"),
            ("ledgers.gone.kind", "1"),
            ("ledgers.main.kind", "1"),
            ("ledgers.main.retry.min_ms", "1"),
            ("ledgers.main.worker.burst", "1"),
            ("ledgers.main.worker.lease_seconds", "1"),
            ("log.format", "1"),
            ("log.level", "1"),
            ("store.path", "same"),
        ]);
        let new = all(&[
            ("http.listen", "2"),
            ("ledgers.main.kind", "2"),
            ("ledgers.main.retry.min_ms", "2"),
            ("ledgers.main.worker.burst", "2"),
            ("ledgers.main.worker.lease_seconds", "2"),
            ("ledgers.new.kind", "2"),
            ("ledgers.new.worker.burst", "2"),
            ("log.format", "2"),
            ("log.level", "2"),
            ("store.path", "same"),
            ("tenants.acme.max_pending", "2"),
        ]);
        let found = changes(&old, &new, |name| name == "main");
        let of = |runs| -> Vec<&str> {
            let some = found.iter().filter(|change| change.runs == runs);
            some.map(|change| change.key.as_str()).collect()
        };
        assert_eq!(
            of(true),
            [
                "ledgers.main.retry.min_ms",
                "ledgers.main.worker.burst",
                "log.level",
                "tenants.acme.max_pending"
            ]
        );
        assert_eq!(
            of(false),
            [
                "http.listen",
                "ledgers.gone",
                "ledgers.main.kind",
                "ledgers.main.worker.lease_seconds",
                "ledgers.new",
                "log.format"
            ]
        );
    }

    #[test]
    fn what_cannot_change_stays_as_it_runs() {
        let runs = Settings::default();
        let mut wanted = runs.clone();
        wanted.http.max_body_bytes += 1;
        let main = wanted.ledgers.values_mut().next().expect("main");
        main.worker.rate_per_second = 7.0;
        main.worker.lease *= 2;
        let merged = merged(&runs, &wanted);
        assert_eq!(merged.http, runs.http);
        let [was, is] = [&runs, &merged].map(|all| all.ledgers.values().next().expect("main").worker);
        assert_eq!(is.lease, was.lease);
        assert!(is.rate_per_second == 7.0);
    }
}

//! A new store from what can still be read of one that its engine does not open, or that is not what it was.
//!
//! What was lost with the damage is not known: of a record that is found, a newer version may be gone. Settled
//! records have none, so they are kept as they are. One that is not settled may have gone on to the ledger since,
//! and to submit it again could do it twice (I2). So:
//!
//! | found as | becomes | because |
//! |---|---|---|
//! | done, failed | the same | nothing comes after it |
//! | parked | the same | a person decides anyway |
//! | submitted | parked | its outcome may be a conflict after which it was sent anew: a person looks |
//! | pending, preparing | set aside | there may be a submission of which nothing is left |
//! | only an index entry | set aside | the record is lost |
//!
//! Documents are kept as far as the engine can still read them.
//!
//! What is set aside is listed in a file, with its content. Reading it fails, and its idempotency key stays
//! taken. The damaged file is kept. A crash at any moment leaves the damaged store or the new one in place.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::json;

use super::carve::Carved;
use super::folder::DataFolder;
use super::keys::Entry;
use super::maintenance::{Finding, MaintenanceError, Report, Result};
use super::pieces::Pieces;
use super::{after, keys, record};
use crate::clock::{Clock, SystemClock};
use crate::domain::{Cause, Event, State, Transaction, TransactionId};
use crate::kv::{self, Order, seal};

pub(super) fn salvage(folder: &DataFolder, cache_bytes: usize) -> Result<Report> {
    let carved = Carved::out_of(seal::files(&folder.store())?)?;
    if carved.is_empty() {
        return Err(MaintenanceError::Nothing(folder.store()));
    }
    let known = survey(folder, cache_bytes)?;
    let list = folder
        .store()
        .with_extension(format!("set-aside-{}.ndjson", TransactionId::new()));
    let (new, _) = folder.compacting();
    let engine = kv::open(folder.engine(), &new, cache_bytes)?;
    let mut salvage = Salvage {
        list: io::BufWriter::new(File::create(&list)?),
        pieces: Pieces::of_new_store(&*engine),
        report: Report::default(),
    };
    let mut taken = BTreeSet::new();
    for tx in carved.records() {
        let tx = tx?;
        taken.extend(tx.idempotency_entry().map(Cow::into_owned));
        salvage.keep(tx)?;
    }
    for id in &known.ids {
        if !carved.holds(*id) {
            // An entry whose id is damaged names a record that never was; its key belongs to one that is there.
            let key = known.keys.get(id).filter(|key| !taken.contains(*key));
            salvage.lose(*id, key.map(String::as_str))?;
        }
    }
    for document in known.documents {
        salvage.pieces.put(document)?;
    }
    salvage.pieces.put_counts(&salvage.report.counts)?;
    salvage.pieces.finish()?;
    let (file, mut report) = (salvage.list.into_inner(), salvage.report);
    file.map_err(io::IntoInnerError::into_error)?.sync_all()?;
    drop(engine);
    if report.findings.is_empty() {
        fs::remove_file(&list)?;
    } else {
        report.quarantine = Some(list);
    }
    report.damaged = Some(folder.keep_damaged()?);
    folder.replace_store()?;
    Ok(report)
}

struct Salvage<'e> {
    list: io::BufWriter<File>,
    pieces: Pieces<'e>,
    report: Report,
}

impl Salvage<'_> {
    fn keep(&mut self, tx: Transaction) -> Result<()> {
        let tx = match &tx.state {
            State::Done { .. } | State::Failed { .. } | State::Parked { .. } => tx,
            State::Submitted { .. } => {
                let cause = Cause::new(
                    "STORE_DAMAGED",
                    "the store was damaged; what was known after this was sent may be lost",
                );
                self.note(
                    &tx,
                    "parked: it was submitted; look up on the ledger what became of it",
                );
                tx.apply(Event::Unresolvable { cause }, SystemClock.now())
                    .map_err(io::Error::other)?
            }
            State::Pending { .. } | State::Preparing { .. } => {
                self.note(
                    &tx,
                    "set aside: it may have been submitted since; look on the ledger",
                );
                let why = "not settled in what could be read; it may have been submitted since";
                self.write_down(tx.id, tx.idempotency_entry().as_deref(), why, Some(&tx))?;
                return Ok(());
            }
        };
        self.pieces.put_record(&tx, record::encode(&tx)?)?;
        let counted = (tx.request.ledger.clone(), tx.status());
        *self.report.counts.entry(counted).or_default() += 1;
        Ok(())
    }

    fn lose(&mut self, id: TransactionId, key: Option<&str>) -> Result<()> {
        self.report.findings.push(Finding::Unreadable {
            id: id.to_string(),
            reason: "no version of it is left".to_owned(),
        });
        self.write_down(id, key, "the record is lost", None)
    }

    fn note(&mut self, tx: &Transaction, what: &'static str) {
        let id = tx.id.to_string();
        self.report.findings.push(Finding::Unsettled { id, what });
    }

    /// Lists what is set aside. Its effect may stand on the ledger: a repeat must not become a new one.
    fn write_down(
        &mut self,
        id: TransactionId,
        key: Option<&str>,
        why: &str,
        record: Option<&Transaction>,
    ) -> Result<()> {
        let line = json!({"id": id, "idempotency_key": key, "why": why, "record": record});
        writeln!(self.list, "{line}")?;
        self.pieces.put((keys::set_aside(id), Vec::new()))?;
        if let Some(key) = key {
            self.pieces
                .put((keys::idempotency(key), id.as_bytes().to_vec()))?;
        }
        Ok(())
    }
}

/// What index entries tell of records, as far as the engine can still read them.
#[derive(Default)]
struct Known {
    ids: BTreeSet<TransactionId>,
    /// Idempotency keys.
    keys: BTreeMap<TransactionId, String>,
    /// Documents that are as they were written.
    documents: Vec<Entry>,
}

/// Lets the engine read a copy: opening a damaged file may change it.
fn survey(folder: &DataFolder, cache_bytes: usize) -> Result<Known> {
    let copy = folder.copy_to_scratch()?;
    // No entry takes less than 16 bytes; if there are more than fit, the damage has made a circle.
    let mut most = 0;
    for file in seal::files(&copy)? {
        most += file.metadata()?.len() / 16;
    }
    let known = read_entries(folder, &copy, cache_bytes, most);
    folder.clear_scratch()?;
    Ok(known)
}

fn read_entries(folder: &DataFolder, copy: &Path, cache_bytes: usize, most: u64) -> Known {
    let mut known = Known::default();
    let engine = match kv::open(folder.engine(), copy, cache_bytes) {
        Ok(engine) => engine,
        Err(error) => {
            tracing::warn!(%error, "indexes cannot be read; records that are lost cannot be listed");
            return known;
        }
    };
    let end = after(b"x");
    let read = engine.scan(b"x"..&end, Order::Ascending, &mut |key, value| {
        if record::unframe(value).is_ok() {
            known.documents.push((key.to_vec(), value.to_vec()));
        }
        match known.documents.len() as u64 > most {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    if let Err(error) = read {
        tracing::warn!(%error, "some documents cannot be read: look whether keys and webhooks are missing");
    }
    for kind in [b"r", b"l", b"t", b"d", b"a", b"e", b"i", b"q"] {
        let (mut visited, end) = (0, after(kind));
        let read = engine.scan(kind..&end, Order::Ascending, &mut |key, value| {
            visited += 1;
            let id = keys::id(if kind == b"i" { value } else { key }).filter(TransactionId::is_time_ordered);
            known.ids.extend(id);
            if let (b"i", Some(id), Ok(name)) = (kind, id, std::str::from_utf8(&key[1..])) {
                known.keys.insert(id, name.to_owned());
            }
            if visited > most {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = read {
            tracing::warn!(%error, kind = %kind.escape_ascii(), "some index entries cannot be read");
        }
    }
    known
}

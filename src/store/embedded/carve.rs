//! Finding records in the bytes of files that their engine cannot read.
//!
//! A record proves itself: its format, the JSON that ends where it ends, and the CRC-32 of it. Both engines keep a
//! value in one piece, and leave older versions of it lying about until the space is used again. So all files are
//! searched from end to end, and of each record the newest version counts. Whether that is the last one there
//! was, nobody can tell: it may be the newest one that is left.
//!
//! Only places are remembered, not records: memory does not grow with their size.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::de::IgnoredAny;

use super::record;
use crate::domain::{Transaction, TransactionId};

/// So much is searched at once.
const WINDOW: usize = 32 << 20;
/// No record is longer.
const LONGEST: usize = 16 << 20;
/// How the JSON of every record begins.
const BEGINNING: &[u8] = br#"{"id":""#;

struct Place {
    version: u64,
    file: usize,
    at: u64,
    length: usize,
}

/// The newest version of each record that could be found.
pub(super) struct Carved {
    files: Vec<PathBuf>,
    places: BTreeMap<TransactionId, Place>,
}

impl Carved {
    pub(super) fn out_of(files: Vec<PathBuf>) -> io::Result<Self> {
        let mut places: BTreeMap<TransactionId, Place> = BTreeMap::new();
        for (number, path) in files.iter().enumerate() {
            let file = File::open(path)?;
            let mut offset = 0;
            loop {
                let bytes = read_at(&file, offset, WINDOW + LONGEST)?;
                for (start, length, tx) in records(&bytes, WINDOW) {
                    let known = places.get(&tx.id).map(|place| place.version);
                    if known.is_none_or(|known| known < tx.version) {
                        let place = Place {
                            version: tx.version,
                            file: number,
                            at: offset + start as u64,
                            length,
                        };
                        places.insert(tx.id, place);
                    }
                }
                if bytes.len() < WINDOW + LONGEST {
                    break;
                }
                offset += WINDOW as u64;
            }
        }
        Ok(Self { files, places })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn holds(&self, id: TransactionId) -> bool {
        self.places.contains_key(&id)
    }

    /// Reads them again, oldest first.
    pub(super) fn records(&self) -> impl Iterator<Item = io::Result<Transaction>> {
        self.places.iter().map(|(id, place)| {
            let bytes = read_at(&File::open(&self.files[place.file])?, place.at, place.length)?;
            record::decode(*id, &bytes).map_err(io::Error::other)
        })
    }
}

fn read_at(file: &File, offset: u64, most: usize) -> io::Result<Vec<u8>> {
    let left = file.metadata()?.len().saturating_sub(offset);
    let mut bytes = vec![0; usize::try_from(left).unwrap_or(most).min(most)];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Start, length and content of every record that begins in the first `window` bytes.
fn records(bytes: &[u8], window: usize) -> impl Iterator<Item = (usize, usize, Transaction)> {
    let ends = bytes.len().min(window + record::HEADER);
    (record::HEADER..ends).filter_map(|json| {
        let start = json - record::HEADER;
        if !bytes[json..].starts_with(BEGINNING) || bytes[start] != record::FORMAT {
            return None;
        }
        let mut values = serde_json::Deserializer::from_slice(&bytes[json..]).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        let length = record::HEADER + values.byte_offset();
        let tx = record::decode_any(&bytes[start..start + length]).ok()?;
        Some((start, length, tx))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::transaction;

    #[test]
    fn whole_records_are_found_anywhere_and_the_newest_counts() {
        let folder = tempfile::tempdir().expect("folder");
        let (old, other) = (transaction("main", Some("a")), transaction("main", None));
        let mut new = old.clone();
        new.version = 2;
        let [old, new, other] = [&old, &new, &other].map(|tx| record::encode(tx).expect("encodes"));
        let mut cut = other.clone();
        cut.truncate(other.len() - 1);
        let mut flipped = other.clone();
        flipped[40] ^= 1;
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        std::fs::write(&paths[0], [&b"{{"[..], &new, &cut, &[1; 14], &old].concat()).expect("writes");
        std::fs::write(&paths[1], [&old[..], &flipped].concat()).expect("writes");
        let carved = Carved::out_of(paths.to_vec()).expect("reads");
        let found: Vec<_> = carved
            .records()
            .map(|found| found.expect("reads").version)
            .collect();
        assert_eq!(found, [2]);
    }
}

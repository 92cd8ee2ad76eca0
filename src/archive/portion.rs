//! What is in an object: one JSON record on each line, in the order of ids, compressed with zstd.

use std::io::{BufRead, BufReader, Read, Write};

use object_store::PutPayload;
use sha2::{Digest, Sha256};

use super::name::{ObjectName, hex};
use super::{ArchiveError, Show};
use crate::domain::Transaction;

/// The library's own default: most of what there is to gain.
const LEVEL: i32 = 3;

/// No record is longer: a line that is was not written here, and is not held in memory.
const LONGEST_LINE: u64 = 512 << 20;

/// Records of one status on their way.
pub(super) struct Portion {
    pub(super) name: ObjectName,
    pub(super) payload: PutPayload,
}

/// Makes an object of records that have one status, which need not be in order. `None` if there are none.
pub(super) fn pack(mut records: Vec<&Transaction>, show: Show) -> Result<Option<Portion>, ArchiveError> {
    records.sort_by_key(|tx| tx.id);
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        return Ok(None);
    };
    let packed = || -> std::io::Result<Vec<u8>> {
        let mut packer = zstd::Encoder::new(Vec::new(), LEVEL)?;
        packer.include_checksum(true)?;
        for tx in &records {
            let json = show(tx)?;
            // A ledger may answer on several lines. Within JSON a line can end only where a space may stand as well.
            let line = json.get().replace(['\n', '\r'], " ");
            packer.write_all(line.as_bytes())?;
            packer.write_all(b"\n")?;
        }
        packer.finish()
    };
    let bytes =
        packed().map_err(|error| ArchiveError::Damaged(format!("records cannot be packed: {error}")))?;
    Ok(Some(Portion {
        name: ObjectName {
            first: first.id,
            last: last.id,
            status: first.status(),
            count: records.len(),
            digest: hex(&Sha256::digest(&bytes)),
        },
        payload: bytes.into(),
    }))
}

/// Hands out the lines of an object, one at a time, as long as `visit` wants more; nothing before all of it was found to be
/// what its name says. Answers whether it came to the end.
///
/// # Errors
/// [`ArchiveError::Damaged`].
pub(super) fn unpack(
    name: &ObjectName,
    bytes: &[u8],
    visit: &mut dyn FnMut(&str) -> Result<bool, ArchiveError>,
) -> Result<bool, ArchiveError> {
    let damaged = |what: String| ArchiveError::Damaged(what);
    if hex(&Sha256::digest(bytes)) != name.digest {
        return Err(damaged(
            "its SHA-256 is not the one in its name; it was changed after it was written".to_owned(),
        ));
    }
    let unreadable = |error: std::io::Error| damaged(format!("it cannot be unpacked: {error}"));
    let mut lines = BufReader::new(zstd::Decoder::with_buffer(bytes).map_err(unreadable)?);
    let (mut line, mut count) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        if read.map_err(unreadable)? == 0 {
            break;
        }
        if line.pop() != Some(b'\n') {
            return Err(damaged("it has a line that does not end".to_owned()));
        }
        let text = std::str::from_utf8(&line).map_err(|error| damaged(format!("it is not text: {error}")))?;
        count += 1;
        if !visit(text)? {
            return Ok(false);
        }
    }
    match count == name.count {
        true => Ok(true),
        false => Err(damaged(format!(
            "it has {count} records, its name says {}",
            name.count
        ))),
    }
}

//! What a transaction read and wrote, as it travels: `rwset.TxReadWriteSet` around `kvrwset.KVRWSet`.
//!
//! As on a real peer, the set of a chaincode stands beside one of `_lifecycle`, with a read that says which definition
//! of the chaincode was called; an open start of a range is the key `\u{1}`, and an empty value removes its key.

use prost::Message;

use crate::fabric::proto::kvrwset::{
    KvRead, KvWrite, KvrwSet, QueryReads, RangeQueryInfo, Version as WireVersion, range_query_info::ReadsInfo,
};
use crate::fabric::proto::rwset::{NsReadWriteSet, TxReadWriteSet};
use crate::ledger::simulator::{Effects, RangeRead, Version};

/// Where definitions of chaincodes are kept.
const LIFECYCLE: &str = "_lifecycle";
/// What an open start of a range is turned into: before every key.
const FIRST_KEY: &str = "\u{1}";

/// The bytes that stand for what a call of `chaincode` did.
pub(super) fn encode(chaincode: &str, effects: &Effects) -> Vec<u8> {
    let definition = KvrwSet {
        reads: vec![KvRead {
            key: format!("namespaces/fields/{chaincode}/Sequence"),
            version: Some(WireVersion::default()),
        }],
        ..KvrwSet::default()
    };
    let set = KvrwSet {
        reads: effects
            .reads
            .iter()
            .map(|(key, version)| read(key, *version))
            .collect(),
        range_queries_info: effects.ranges.iter().map(range).collect(),
        writes: effects
            .writes
            .iter()
            .map(|(key, value)| KvWrite {
                key: key.clone(),
                is_delete: value.as_ref().is_none_or(String::is_empty),
                value: value.clone().unwrap_or_default().into_bytes(),
            })
            .collect(),
    };
    let namespaces = [(LIFECYCLE, definition), (chaincode, set)].map(|(namespace, set)| NsReadWriteSet {
        namespace: namespace.to_owned(),
        rwset: set.encode_to_vec(),
    });
    TxReadWriteSet {
        data_model: 0,
        ns_rwset: namespaces.into(),
    }
    .encode_to_vec()
}

fn read(key: &str, version: Option<Version>) -> KvRead {
    KvRead {
        key: key.to_owned(),
        version: version.map(|Version(block, position)| WireVersion {
            block_num: block,
            tx_num: u64::from(position),
        }),
    }
}

fn range(range: &RangeRead) -> RangeQueryInfo {
    let reads: Vec<KvRead> = range
        .seen
        .iter()
        .map(|(key, version)| read(key, Some(*version)))
        .collect();
    RangeQueryInfo {
        start_key: if range.start.is_empty() {
            FIRST_KEY.to_owned()
        } else {
            range.start.clone()
        },
        end_key: range.end.clone(),
        itr_exhausted: true,
        reads_info: (!reads.is_empty()).then_some(ReadsInfo::RawReads(QueryReads { kv_reads: reads })),
    }
}

/// Why results are not taken for what a call of a chaincode did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// They cannot be read.
    Malformed,
    /// They write where the chaincode must not.
    Illegal,
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Unreadable`].
pub(super) fn decode(chaincode: &str, bytes: &[u8]) -> Result<Effects, Unreadable> {
    let malformed = |_: prost::DecodeError| Unreadable::Malformed;
    let sets = TxReadWriteSet::decode(bytes).map_err(malformed)?;
    let mut effects = Effects::default();
    for namespace in sets.ns_rwset {
        let set = KvrwSet::decode(namespace.rwset.as_slice()).map_err(malformed)?;
        if namespace.namespace == LIFECYCLE && set.writes.is_empty() {
            continue;
        }
        if namespace.namespace != chaincode {
            return Err(Unreadable::Illegal);
        }
        for KvRead { key, version } in set.reads {
            effects.reads.insert(key, version.map(from_wire).transpose()?);
        }
        for range in set.range_queries_info {
            effects.ranges.push(range_from_wire(range)?);
        }
        for write in set.writes {
            let value = if write.is_delete || write.value.is_empty() {
                None
            } else {
                Some(String::from_utf8(write.value).map_err(|_| Unreadable::Malformed)?)
            };
            effects.writes.insert(write.key, value);
        }
    }
    Ok(effects)
}

fn from_wire(version: WireVersion) -> Result<Version, Unreadable> {
    let position = u32::try_from(version.tx_num).map_err(|_| Unreadable::Malformed)?;
    Ok(Version(version.block_num, position))
}

fn range_from_wire(range: RangeQueryInfo) -> Result<RangeRead, Unreadable> {
    let reads = match range.reads_info {
        None => Vec::new(),
        Some(ReadsInfo::RawReads(reads)) => reads.kv_reads,
        Some(ReadsInfo::ReadsMerkleHashes(_)) => return Err(Unreadable::Malformed),
    };
    let seen = reads.into_iter().map(|KvRead { key, version }| {
        let version = version.ok_or(Unreadable::Malformed)?;
        Ok((key, from_wire(version)?))
    });
    Ok(RangeRead {
        start: if range.start_key == FIRST_KEY {
            String::new()
        } else {
            range.start_key
        },
        end: range.end_key,
        seen: seen.collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects() -> Effects {
        Effects {
            reads: [("a".into(), Some(Version(7, 0))), ("b".into(), None)].into(),
            ranges: vec![
                RangeRead {
                    start: String::new(),
                    end: "z".into(),
                    seen: vec![("a".into(), Version(7, 0))],
                },
                RangeRead {
                    start: "x".into(),
                    end: String::new(),
                    seen: Vec::new(),
                },
            ],
            writes: [("a".into(), Some("1".into())), ("b".into(), None)].into(),
        }
    }

    #[test]
    fn effects_come_back_from_the_wire() {
        let bytes = encode("basic", &effects());
        assert_eq!(decode("basic", &bytes), Ok(effects()));
        assert_eq!(decode("token", &bytes), Err(Unreadable::Illegal));
        assert_eq!(decode("basic", &[0xff]), Err(Unreadable::Malformed));
    }

    #[test]
    fn the_bytes_are_those_of_a_real_peer() {
        // Seen on Fabric 3.1: the part of a chaincode "probe" that read the range from "r" to "s".
        let seen = [("r1", 29), ("r15", 27), ("r2", 26)];
        let ranges = vec![RangeRead {
            start: "r".into(),
            end: "s".into(),
            seen: seen
                .map(|(key, block)| (key.to_owned(), Version(block, 0)))
                .into(),
        }];
        let effects = Effects {
            ranges,
            ..Effects::default()
        };
        let text = crate::fabric::hex(&encode("probe", &effects));
        assert!(
            text.ends_with(
                "12340a0570726f6265122b12290a01721201731801221f0a080a0272311202081d0a090a037231351202081b0a080a0272321202081a"
            ),
            "{text}"
        );
    }
}

//! The key layout: one key space, a letter for each kind of entry.
//!
//! ```text
//! m name                            format of the store; that it was restored from a backup; which log of changes
//! r id                              the record
//! l ledger 0 status id              listing by ledger and status, oldest first
//! t tenant 0 status id              the same by tenant, of those other than the default one
//! d ledger 0 class due-ms id        due mark; class 0: first try, 1: looked at before
//! a ledger 0 class due-ms id        the same mark once it was announced to a work queue -> when
//! e deadline-ms id                  deadline of one that waits for a try
//! i key                             idempotency key -> id
//! c ledger 0 status                 how many
//! v number                          a change: record, version, when
//! x kind 0 key                      a document
//! k ledger                          where its outcomes go on: checkpoint
//! q id                              a record that a repair set aside; its idempotency entry stays
//! ```
//!
//! Every entry but `m`, `c`, `k`, `q`, `v` and `x` follows from the record alone ([`index`]), so the indexes can be
//! rebuilt; an `a` stands in the place of its `d`.
//! Ledger names hold no zero byte, and numbers are big-endian, so byte order is the order wanted.

use crate::domain::{LedgerName, State, Status, TenantName, Timestamp, Transaction, TransactionId};
use crate::store::Mark;
use crate::store::documents::Kind;

pub(super) const FORMAT: &[u8] = b"mformat";
pub(super) const PROBE: &[u8] = b"mprobe";
pub(super) const RESTORED: &[u8] = b"mrestored";
/// A number that names the log of changes: another one after a restore or a salvage, whose numbers begin anew.
pub(super) const CHANGE_LOG: &[u8] = b"mchange-log";
/// The last change that was forgotten.
pub(super) const CHANGES_FORGOTTEN: &[u8] = b"mchanges-forgotten";

/// Key and value of one entry.
pub(super) type Entry = (Vec<u8>, Vec<u8>);

pub(super) fn record(id: TransactionId) -> Vec<u8> {
    [b"r", id.as_bytes().as_slice()].concat()
}

pub(super) fn set_aside(id: TransactionId) -> Vec<u8> {
    [b"q", id.as_bytes().as_slice()].concat()
}

pub(super) fn listing(ledger: &LedgerName, status: Status, id: TransactionId) -> Vec<u8> {
    [&listing_prefix(ledger, status), id.as_bytes().as_slice()].concat()
}

/// What the keys of a listing begin with.
pub(super) fn listing_prefix(ledger: &LedgerName, status: Status) -> Vec<u8> {
    [b"l", ledger.as_str().as_bytes(), &[0, status_byte(status)]].concat()
}

/// What the keys of a tenant's listing begin with.
pub(super) fn tenant_prefix(tenant: &TenantName, status: Status) -> Vec<u8> {
    [b"t", tenant.as_str().as_bytes(), &[0, status_byte(status)]].concat()
}

/// The tenant in a key of its listing.
pub(super) fn listed_tenant(key: &[u8]) -> Option<TenantName> {
    let [b't', name @ .., 0, _] = key.get(..key.len().checked_sub(16)?)? else {
        return None;
    };
    TenantName::new(std::str::from_utf8(name).ok()?)
}

pub(super) fn due_prefix(ledger: &LedgerName, class: u8) -> Vec<u8> {
    [b"d", ledger.as_str().as_bytes(), &[0, class]].concat()
}

/// The due mark's key.
pub(super) fn due(ledger: &LedgerName, mark: &Mark) -> Vec<u8> {
    let (prefix, millis) = (
        due_prefix(ledger, u8::from(!mark.first_try)),
        mark.due_at.as_millis().to_be_bytes(),
    );
    [prefix.as_slice(), &millis, mark.id.as_bytes()].concat()
}

/// The key of a due mark once it was announced.
pub(super) fn announced(due: &[u8]) -> Vec<u8> {
    [b"a", &due[1..]].concat()
}

/// The due mark's key of one that was announced.
pub(super) fn unannounced(announced: &[u8]) -> Vec<u8> {
    [b"d", &announced[1..]].concat()
}

pub(super) fn idempotency(key: &str) -> Vec<u8> {
    [b"i", key.as_bytes()].concat()
}

pub(super) fn count(ledger: &LedgerName, status: Status) -> Vec<u8> {
    [b"c", ledger.as_str().as_bytes(), &[0, status_byte(status)]].concat()
}

pub(super) fn change(number: u64) -> Vec<u8> {
    [b"v".as_slice(), &number.to_be_bytes()].concat()
}

/// The number in a change's key.
pub(super) fn change_number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.strip_prefix(b"v")?.try_into().ok()?))
}

/// What is kept of a change: record, version, when.
pub(super) fn change_entry(id: TransactionId, version: u64, at: Timestamp) -> Vec<u8> {
    let (version, at) = (version.to_be_bytes(), at.as_millis().to_be_bytes());
    [id.as_bytes().as_slice(), &version, &at].concat()
}

/// The parts of [`change_entry`].
pub(super) fn changed(value: &[u8]) -> Option<(TransactionId, u64, Timestamp)> {
    let (id, rest) = value.split_first_chunk()?;
    let (version, at) = rest.split_first_chunk()?;
    let at = u64::from_be_bytes(at.try_into().ok()?);
    Some((
        TransactionId::from_bytes(*id),
        u64::from_be_bytes(*version),
        Timestamp::from_millis(at),
    ))
}

pub(super) fn document(kind: Kind, key: &str) -> Vec<u8> {
    [b"x", kind.as_bytes(), &[0], key.as_bytes()].concat()
}

pub(super) fn checkpoint(ledger: &LedgerName) -> Vec<u8> {
    [b"k", ledger.as_str().as_bytes()].concat()
}

/// The number in a value; `None` if there is none that can be read.
pub(super) fn number(value: Option<Vec<u8>>) -> Option<u64> {
    Some(u64::from_be_bytes(value?.try_into().ok()?))
}

/// What a counter's key counts.
pub(super) fn counted(key: &[u8]) -> Option<(LedgerName, Status)> {
    let [b'c', name @ .., 0, status] = key else {
        return None;
    };
    let status = Status::ALL.into_iter().find(|s| status_byte(*s) == *status)?;
    Some((LedgerName::new(std::str::from_utf8(name).ok()?)?, status))
}

pub(super) fn deadlines_until(moment: Timestamp) -> Vec<u8> {
    [
        b"e".as_slice(),
        &moment.as_millis().saturating_add(1).to_be_bytes(),
    ]
    .concat()
}

/// The moment in a due mark or deadline, which stands before the id at the key's end.
pub(super) fn moment(key: &[u8]) -> Option<Timestamp> {
    let millis = key.get(key.len().checked_sub(24)?..key.len() - 16)?;
    Some(Timestamp::from_millis(u64::from_be_bytes(
        millis.try_into().ok()?,
    )))
}

/// The id at the end of a key, or a whole value that is an id.
pub(super) fn id(bytes: &[u8]) -> Option<TransactionId> {
    let id = bytes.get(bytes.len().checked_sub(16)?..)?;
    Some(TransactionId::from_bytes(id.try_into().ok()?))
}

/// Every entry that points to a record in its present state.
pub(super) fn index(tx: &Transaction) -> Vec<Entry> {
    let ledger = &tx.request.ledger;
    let mut entries = vec![(listing(ledger, tx.status(), tx.id), Vec::new())];
    if let Some(mark) = Mark::of(tx) {
        entries.push((due(ledger, &mark), Vec::new()));
    }
    if let (State::Pending { .. }, Some(deadline)) = (&tx.state, tx.expires_unasked_at()) {
        let key = [
            b"e".as_slice(),
            &deadline.as_millis().to_be_bytes(),
            tx.id.as_bytes(),
        ];
        entries.push((key.concat(), Vec::new()));
    }
    if !tx.tenant.is_default() {
        let prefix = tenant_prefix(&tx.tenant, tx.status());
        entries.push(([&prefix, tx.id.as_bytes().as_slice()].concat(), Vec::new()));
    }
    if let Some(key) = tx.idempotency_entry() {
        entries.push((idempotency(&key), tx.id.as_bytes().to_vec()));
    }
    entries
}

fn status_byte(status: Status) -> u8 {
    match status {
        Status::Pending => b'p',
        Status::Done => b'd',
        Status::Failed => b'f',
    }
}

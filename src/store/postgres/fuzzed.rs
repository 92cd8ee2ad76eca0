//! What has to hold of a record that goes into the database.

#![allow(clippy::expect_used, reason = "a broken property panics")]

use super::failure::Failure;
use super::row::{self, Columns};
use crate::domain::{TenantName, Transaction, TransactionId};

/// The texts `request` and `progress` of a row, with a zero byte between them.
pub(crate) fn texts(data: &[u8]) -> Option<Transaction> {
    let (request, progress) = std::str::from_utf8(data).ok()?.split_once('\0')?;
    let columns = Columns {
        id: row::uuid(TransactionId::HIGHEST),
        version: Some(1),
        tenant: "default",
        key: None,
        digest: None,
        request,
        progress: Some(progress),
    };
    match columns.record() {
        Ok(transaction) => Some(transaction),
        Err(Failure::Damaged(_)) => None,
        Err(failure) => panic!("a damaged record is taken for trouble with the database: {failure}"),
    }
}

/// A record is read as it was written.
pub(crate) fn comes_back(transaction: &Transaction) {
    // A column of signed numbers, and one of texts without U+0000: neither is ever reached by what is accepted.
    let unfit = transaction
        .idempotency
        .as_ref()
        .is_some_and(|(key, _)| key.contains('\0'))
        || TenantName::new(transaction.tenant.as_str()).is_none();
    let Ok(version) = i64::try_from(transaction.version) else {
        return;
    };
    if unfit {
        return;
    }
    let new = row::new(transaction).expect("encodes");
    assert_eq!(row::end(transaction).is_some(), transaction.is_settled());
    let columns = Columns {
        id: new.id,
        version: Some(version),
        tenant: new.tenant.as_str(),
        key: new.key,
        digest: new.digest.as_ref().map(<[u8; 32]>::as_slice),
        request: &new.request,
        progress: Some(&new.work.progress),
    };
    let again = columns.record().expect("decodes");
    let shown = |transaction: &Transaction| serde_json::to_string(transaction).expect("JSON");
    assert_eq!(shown(&again), shown(transaction));
}

//! What a contract sees of the ledger while it is endorsed.
//!
//! As in Fabric, a transaction does not read its own writes: `get` and `range` always answer from committed
//! state, and of several writes to one key the last one counts. Nothing is written here; the effects are
//! collected and travel in the envelope.

use std::ops::ControlFlow;

use super::chain::Chain;
use super::contracts::{ContractError, refuse};
use super::effects::{Effects, Event, Executed, RangeRead};

/// Most keys one range query may see, so that one call cannot fill the memory or a block.
pub(super) const MAX_RANGE_KEYS: usize = 100_000;

/// One contract's view of committed state, with notes of what it does.
pub(super) struct Stub<'a> {
    chain: &'a Chain,
    contract: &'a str,
    effects: Effects,
    event: Option<Event>,
}

impl<'a> Stub<'a> {
    /// A view for one call of `contract`.
    pub(super) fn new(chain: &'a Chain, contract: &'a str) -> Self {
        Self {
            chain,
            contract,
            effects: Effects::default(),
            event: None,
        }
    }

    /// The committed value of `key`.
    ///
    /// # Errors
    /// [`ContractError::Storage`].
    pub(super) fn get(&mut self, key: &str) -> Result<Option<String>, ContractError> {
        let found = self.chain.value(self.contract, key)?;
        let version = found.as_ref().map(|(version, _)| *version);
        self.effects.reads.insert(key.to_owned(), version);
        Ok(found.map(|(_, value)| value))
    }

    /// Sets `key` once the transaction commits.
    ///
    /// # Errors
    /// A refusal if the key is empty.
    pub(super) fn put(&mut self, key: &str, value: String) -> Result<(), ContractError> {
        self.write(key, Some(value))
    }

    /// Removes `key` once the transaction commits.
    ///
    /// # Errors
    /// A refusal if the key is empty.
    pub(super) fn delete(&mut self, key: &str) -> Result<(), ContractError> {
        self.write(key, None)
    }

    /// The committed keys from `start` to before `end` with their values, in order. An empty `start` or
    /// `end` leaves that side open.
    ///
    /// # Errors
    /// [`ContractError::Storage`]; a refusal beyond [`MAX_RANGE_KEYS`] keys.
    pub(super) fn range(&mut self, start: &str, end: &str) -> Result<Vec<(String, String)>, ContractError> {
        let (mut seen, mut found) = (Vec::new(), Vec::new());
        let mut too_many = false;
        self.chain
            .scan(self.contract, start, end, &mut |key, version, value| {
                if seen.len() == MAX_RANGE_KEYS {
                    too_many = true;
                    return ControlFlow::Break(());
                }
                seen.push((key.to_owned(), version));
                found.push((key.to_owned(), value.to_owned()));
                ControlFlow::Continue(())
            })?;
        if too_many {
            return refuse(format!("the range holds more than {MAX_RANGE_KEYS} keys"));
        }
        self.effects.ranges.push(RangeRead {
            start: start.to_owned(),
            end: end.to_owned(),
            seen,
        });
        Ok(found)
    }

    /// Sets the event that is told if the transaction commits. Of several, the last one counts.
    pub(super) fn tell(&mut self, name: &str, payload: impl Into<Vec<u8>>) {
        self.event = Some(Event {
            name: name.to_owned(),
            payload: payload.into(),
        });
    }

    /// The call with everything it did, and what it returned.
    pub(super) fn finish(self, returned: Option<String>) -> Executed {
        Executed {
            returned,
            effects: self.effects,
            event: self.event,
        }
    }

    fn write(&mut self, key: &str, value: Option<String>) -> Result<(), ContractError> {
        if key.is_empty() {
            return refuse("a key must not be empty");
        }
        self.effects.writes.insert(key.to_owned(), value);
        Ok(())
    }
}

//! Many requests accepted in one durable commit.
//!
//! Each item is judged by itself; with `atomic` one bad item keeps all from being stored. A crash leaves all that were
//! to be stored, or none.

use std::collections::HashMap;

use futures_util::future::join_all;

use super::{Accepted, Caller, FieldError, Gateway, Refusal, repeat_of};
use crate::domain::{Request, TenantName, Transaction, TransactionId};
use crate::failpoint;
use crate::store::{Inserted, MOST_BYTES, StoreError};
use crate::worker::Lane;

/// One of many requests.
#[derive(Debug)]
pub struct Item {
    /// What is asked for.
    pub request: Request,
    /// Its idempotency key.
    pub key: Option<String>,
}

/// One of many requests that is stored.
#[derive(Debug)]
pub struct Stored {
    /// Its record's.
    pub id: TransactionId,
    /// Whether it is at its end.
    pub is_settled: bool,
    /// Whether it was stored before, by an earlier request with the same idempotency key.
    pub repeated: bool,
    /// Its record as it stands; of repeats only as long as those of one batch are small enough together.
    pub transaction: Option<Transaction>,
}

impl Stored {
    /// Keeps the record of a repeat if there is `room` for so many bytes: repeats may be far larger than what asked for them.
    fn new(accepted: Accepted, room: &mut usize) -> Self {
        let Accepted {
            transaction,
            repeated,
        } = accepted;
        let left = match repeated {
            // What cannot be written is not shown either.
            true => serde_json::to_vec(&transaction).map_or(None, |json| room.checked_sub(json.len())),
            false => Some(*room),
        };
        *room = left.unwrap_or_default();
        Self {
            id: transaction.id,
            is_settled: transaction.is_settled(),
            repeated,
            transaction: left.map(|_| transaction),
        }
    }
}

impl Gateway {
    /// Checks many requests and stores those that are good, in one commit. Answers for each in order; what is `Ok` is
    /// durable (I1). An item that turned out bad while it was read is `None`, and so is its answer.
    ///
    /// With `atomic` nothing is stored unless all are good: whoever is then not at fault is told [`Refusal::Withheld`].
    ///
    /// # Errors
    /// [`StoreError`]; what was to be stored may be stored all the same.
    pub async fn accept_many(
        &self,
        caller: &Caller,
        items: Vec<Option<Item>>,
        trace: Option<String>,
        atomic: bool,
    ) -> Result<Vec<Option<Result<Stored, Refusal>>>, StoreError> {
        let (tenant, origin) = (caller.own_tenant(), caller.origin(trace));
        let unread = items.iter().any(Option::is_none);
        let mut batch = Batch {
            answers: Vec::with_capacity(items.len()),
            new: Vec::new(),
            keys: HashMap::new(),
            room: self.room(&tenant),
            for_repeats: MOST_BYTES,
        };
        let checked: Vec<_> = items
            .into_iter()
            .map(|item| Some(self.check_item(&tenant, item?)))
            .collect();
        // All at once: each may wait for a name.
        let callbacks = join_all(checked.iter().map(async |item| match item {
            Some(Ok((transaction, _))) => self.look_up_callback(&transaction.request).await,
            Some(Err(_)) | None => Ok(()),
        }));
        let callbacks = callbacks.await;
        for (item, callback) in checked.into_iter().zip(callbacks) {
            let item = item.map(|checked| callback.and(checked));
            let answer = match item {
                Some(Ok((transaction, lane))) => {
                    match self
                        .judge(&mut batch, &tenant, transaction, &lane, atomic)
                        .await?
                    {
                        Judged::New(mut transaction) => {
                            transaction.origin = origin.clone();
                            batch.new.push((batch.answers.len(), *transaction));
                            None
                        }
                        Judged::Answered(answer) => Some(*answer),
                    }
                }
                Some(Err(refusal)) => Some(Err(refusal)),
                None => None,
            };
            batch.answers.push(answer);
        }
        let Batch {
            mut answers,
            mut new,
            mut for_repeats,
            ..
        } = batch;
        let mut bad = unread || answers.iter().any(|answer| matches!(answer, Some(Err(_))));
        if new.iter().any(|(_, tx)| tx.request.callback_url.is_some()) {
            self.0.webhooks.expect_callback(&tenant).await?;
        }
        loop {
            let given_up = atomic && bad;
            if new.is_empty() || given_up {
                break;
            }
            failpoint::reached("accept-before-store");
            let (places, transactions): (Vec<_>, Vec<_>) = new.into_iter().unzip();
            let stored = self.0.store.insert_many(&transactions, atomic).await?;
            new = Vec::new();
            for ((place, transaction), inserted) in places.into_iter().zip(transactions).zip(stored) {
                if matches!(inserted, Inserted::Withheld) {
                    // Another request took the key of one of them just now. If that was a repeat, the rest goes on.
                    new.push((place, transaction));
                    continue;
                }
                let answer = self.answer(transaction, inserted).await;
                let answer = answer.map(|accepted| Stored::new(accepted, &mut for_repeats));
                bad |= answer.is_err();
                answers[place] = Some(answer);
            }
        }
        for (place, _) in new {
            answers[place] = Some(Err(Refusal::Withheld));
        }
        Ok(answers)
    }

    async fn judge(
        &self,
        batch: &mut Batch,
        tenant: &TenantName,
        transaction: Transaction,
        lane: &Lane,
        atomic: bool,
    ) -> Result<Judged, StoreError> {
        let refused = |refusal| Ok(Judged::Answered(Box::new(Err(refusal))));
        let key = transaction.idempotency_entry();
        if let Some(key) = &key
            && let Some(first) = batch.keys.insert(key.to_string(), batch.answers.len())
        {
            return refused(Refusal::Invalid(vec![FieldError {
                pointer: "/idempotency_key".to_owned(),
                detail: format!("is the key of item {first} of this batch as well; each needs its own"),
            }]));
        }
        // A repeat adds nothing to the backlog, so a full one does not refuse it; nor does it keep others from being
        // stored.
        if let Some(key) = &key
            && (atomic || batch.room == Some(0))
            && let Some(known) = self.0.store.find_by_idempotency_key(key).await?
        {
            let answer = repeat_of(known, &transaction);
            let answer = answer.map(|accepted| Stored::new(accepted, &mut batch.for_repeats));
            return Ok(Judged::Answered(Box::new(answer)));
        }
        match &mut batch.room {
            Some(0) => return refused(self.full(tenant, lane)),
            Some(room) => *room -= 1,
            None => {}
        }
        Ok(Judged::New(Box::new(transaction)))
    }
}

/// A batch of which some items are judged.
struct Batch {
    answers: Vec<Option<Result<Stored, Refusal>>>,
    /// What is to be stored, and whose answer that will be.
    new: Vec<(usize, Transaction)>,
    /// Which item came with which idempotency key.
    keys: HashMap<String, usize>,
    /// How many more may be accepted; `None` if there is no limit.
    room: Option<u64>,
    /// How many bytes of earlier records may still be answered.
    for_repeats: usize,
}

enum Judged {
    New(Box<Transaction>),
    Answered(Box<Result<Stored, Refusal>>),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::{LedgerName, Timestamp};

    fn accepted(repeated: bool) -> Accepted {
        let ledger = LedgerName::new("main").expect("a name");
        let request = Request {
            metadata: BTreeMap::from([("order".to_owned(), "x".repeat(1_000))]),
            ..Request::call(ledger, "c", "f", Vec::new())
        };
        Accepted {
            transaction: Transaction::accept(request, None, Timestamp::from_millis(0)),
            repeated,
        }
    }

    #[test]
    fn i7_the_records_of_repeats_are_answered_as_long_as_they_are_small_together() {
        let mut room = 3_500;
        let mut shown = |repeated| Stored::new(accepted(repeated), &mut room).transaction.is_some();
        assert_eq!(
            [true, false, true, true, true, false].map(&mut shown),
            [true, true, true, false, false, true]
        );
    }
}

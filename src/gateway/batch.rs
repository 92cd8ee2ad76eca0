//! Many requests accepted in one durable commit.
//!
//! Each item is judged by itself; with `atomic` one bad item keeps all from being stored. A crash leaves all that were
//! to be stored, or none.

use std::collections::HashMap;

use futures_util::future::join_all;

use super::{Accepted, Caller, FieldError, Gateway, Refusal, repeat_of};
use crate::domain::{Request, TenantName, Transaction};
use crate::failpoint;
use crate::store::{Inserted, StoreError};

/// One of many requests.
#[derive(Debug)]
pub struct Item {
    /// What is asked for.
    pub request: Request,
    /// Its idempotency key.
    pub key: Option<String>,
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
    ) -> Result<Vec<Option<Result<Accepted, Refusal>>>, StoreError> {
        let (tenant, origin) = (caller.own_tenant(), caller.origin(trace));
        let unread = items.iter().any(Option::is_none);
        let mut batch = Batch {
            answers: Vec::with_capacity(items.len()),
            new: Vec::new(),
            keys: HashMap::new(),
            room: self.room(&tenant),
        };
        let callbacks = items
            .iter()
            .map(async |item| self.callback_fault(&item.as_ref()?.request).await);
        // All at once: each may wait for a name.
        let callbacks = join_all(callbacks).await;
        for (item, callback) in items.into_iter().zip(callbacks) {
            let answer = match item {
                Some(item) => match self.judge(&mut batch, &tenant, (item, callback), atomic).await? {
                    Judged::New(mut transaction) => {
                        transaction.origin = origin.clone();
                        batch.new.push((batch.answers.len(), *transaction));
                        None
                    }
                    Judged::Answered(answer) => Some(*answer),
                },
                None => None,
            };
            batch.answers.push(answer);
        }
        let Batch {
            mut answers, mut new, ..
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
                let answer = self.answer(transaction, inserted);
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
        (item, callback): (Item, Option<FieldError>),
        atomic: bool,
    ) -> Result<Judged, StoreError> {
        let refused = |refusal| Ok(Judged::Answered(Box::new(Err(refusal))));
        let (transaction, lane) = match self.check_item(tenant, item, callback) {
            Ok(checked) => checked,
            Err(refusal) => return refused(refusal),
        };
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
            return Ok(Judged::Answered(Box::new(repeat_of(known, &transaction))));
        }
        match &mut batch.room {
            Some(0) => return refused(self.full(tenant, &lane)),
            Some(room) => *room -= 1,
            None => {}
        }
        Ok(Judged::New(Box::new(transaction)))
    }
}

/// A batch of which some items are judged.
struct Batch {
    answers: Vec<Option<Result<Accepted, Refusal>>>,
    /// What is to be stored, and whose answer that will be.
    new: Vec<(usize, Transaction)>,
    /// Which item came with which idempotency key.
    keys: HashMap<String, usize>,
    /// How many more may be accepted; `None` if there is no limit.
    room: Option<u64>,
}

enum Judged {
    New(Box<Transaction>),
    Answered(Box<Result<Accepted, Refusal>>),
}

//! A delivery: one settled transaction on its way to one endpoint, and every move it can make. Pure.
//!
//! Its id follows from transaction and endpoint, so the same event cannot be queued twice. A pending delivery is due
//! at a moment; whoever sends it first moves that moment behind its own lease, so that another takes over if it dies.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{Decision, RetrySettings, Status, TenantName, Timestamp, TransactionId};

/// How many attempts a delivery remembers; the first ones are forgotten.
pub(super) const MOST_ATTEMPTS: usize = 20;

/// A receiver that asks for more time than this is tried sooner.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// Names a delivery: `dlv_<transaction>_<endpoint>`. It is the `webhook-id` of every attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeliveryId {
    /// The transaction.
    pub transaction: TransactionId,
    /// The endpoint's id.
    pub endpoint: String,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dlv_{}_{}", self.transaction, self.endpoint)
    }
}

impl FromStr for DeliveryId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (transaction, endpoint) = text
            .strip_prefix("dlv_")
            .and_then(|rest| rest.split_once('_'))
            .ok_or(())?;
        let id = Self {
            transaction: transaction.parse().map_err(|_| ())?,
            endpoint: endpoint.to_owned(),
        };
        // One delivery has one name: a UUID has several spellings.
        if id.to_string() == text { Ok(id) } else { Err(()) }
    }
}

/// A delivery as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The transaction that was settled.
    pub transaction: TransactionId,
    /// The endpoint's id.
    pub endpoint: String,
    /// Whose both are.
    pub tenant: TenantName,
    /// Where it goes; for an endpoint of its own, where it went last.
    pub url: String,
    /// What became of the transaction.
    pub status: Status,
    /// When it was settled.
    pub settled_at: Timestamp,
    /// When the delivery was made.
    pub created_at: Timestamp,
    /// Where it stands.
    pub progress: Progress,
    /// The latest attempts, oldest first.
    pub attempts: Vec<Attempt>,
}

/// Where a delivery stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Progress {
    /// It is to be sent.
    Pending {
        /// From when on; while somebody sends it, the end of the lease.
        due_at: Timestamp,
        /// Whether somebody sends it.
        leased: bool,
        /// How often it was tried in vain since it was made, or asked for again.
        tries: u32,
        /// An attempt after this moment is the last one.
        give_up_at: Timestamp,
    },
    /// It was received.
    Delivered {
        /// When.
        at: Timestamp,
    },
    /// It was given up.
    Failed {
        /// When.
        at: Timestamp,
        /// Why.
        reason: String,
    },
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub at: Timestamp,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// What was wrong, if anything.
    pub error: Option<String>,
    /// How long it took.
    pub duration_ms: u64,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) attempt: Attempt,
    pub(super) verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// 2xx.
    Received,
    /// Try again, and not before this much time has passed.
    Again(Duration),
    /// 410: never again.
    Gone,
}

/// How deliveries are tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) retry: RetrySettings,
    pub(super) give_up_after: Duration,
    /// How long one that is being sent stays with who sends it.
    pub(super) lease: Duration,
}

impl Delivery {
    /// Its name.
    pub fn id(&self) -> DeliveryId {
        DeliveryId {
            transaction: self.transaction,
            endpoint: self.endpoint.clone(),
        }
    }

    /// `transaction.done` or `transaction.failed`.
    pub fn event(&self) -> &'static str {
        match self.status {
            Status::Done => "transaction.done",
            Status::Failed => "transaction.failed",
            Status::Pending => "transaction.pending",
        }
    }

    /// When it is to be looked at, if it is pending.
    pub(super) fn due_at(&self) -> Option<Timestamp> {
        match self.progress {
            Progress::Pending { due_at, .. } => Some(due_at),
            Progress::Delivered { .. } | Progress::Failed { .. } => None,
        }
    }

    /// The same, in the hands of somebody who sends it. `None` if it is not pending, or not due.
    pub(super) fn claimed(&self, now: Timestamp, patience: &Patience) -> Option<Self> {
        match self.progress {
            Progress::Pending {
                due_at,
                tries,
                give_up_at,
                ..
            } if due_at <= now => Some(Self {
                progress: Progress::Pending {
                    due_at: now.plus(patience.lease),
                    leased: true,
                    tries,
                    give_up_at,
                },
                ..self.clone()
            }),
            _ => None,
        }
    }

    /// The same after an attempt. `chance` is a random number in `[0, 1)`.
    pub(super) fn after(
        mut self,
        outcome: Outcome,
        now: Timestamp,
        patience: &Patience,
        chance: f64,
    ) -> Self {
        let Outcome { attempt, verdict } = outcome;
        let reason = attempt.error.clone().unwrap_or_default();
        self.attempts.push(attempt);
        let forgotten = self.attempts.len().saturating_sub(MOST_ATTEMPTS);
        self.attempts.drain(..forgotten);
        let Progress::Pending {
            tries, give_up_at, ..
        } = self.progress
        else {
            return self;
        };
        self.progress = match verdict {
            Verdict::Received => Progress::Delivered { at: now },
            Verdict::Gone => Progress::Failed { at: now, reason },
            Verdict::Again(_) if now >= give_up_at => Progress::Failed {
                at: now,
                reason: format!("given up; the last attempt: {reason}"),
            },
            Verdict::Again(asked) => {
                let delay = match patience.retry.decide(tries + 1, chance) {
                    Decision::Retry(delay) => delay,
                    Decision::GiveUp => patience.retry.max,
                };
                Progress::Pending {
                    due_at: now.plus(delay.max(asked.min(LONGEST_RETRY_AFTER))),
                    leased: false,
                    tries: tries + 1,
                    give_up_at,
                }
            }
        };
        self
    }

    /// The same, given up without an attempt.
    pub(super) fn given_up(mut self, now: Timestamp, reason: &str) -> Self {
        self.progress = Progress::Failed {
            at: now,
            reason: reason.to_owned(),
        };
        self
    }

    /// The same, to be sent at once because its owner asks for it. One that is being sent stays as it is.
    pub(super) fn asked_for_again(mut self, now: Timestamp, patience: &Patience) -> Self {
        let in_hand = matches!(self.progress, Progress::Pending { leased: true, due_at, .. } if due_at > now);
        if !in_hand {
            self.progress = Progress::due(now, patience);
        }
        self
    }
}

impl Progress {
    /// The name of the state.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "pending",
            Self::Delivered { .. } => "delivered",
            Self::Failed { .. } => "failed",
        }
    }

    /// To be sent from now on.
    pub(super) fn due(now: Timestamp, patience: &Patience) -> Self {
        Self::Pending {
            due_at: now,
            leased: false,
            tries: 0,
            give_up_at: now.plus(patience.give_up_after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DelayStrategy;
    use crate::webhooks::endpoint::CALLBACK;

    const PATIENCE: Patience = Patience {
        retry: RetrySettings {
            strategy: DelayStrategy::Exponential,
            min: Duration::from_secs(5),
            max: Duration::from_secs(60),
            max_attempts: None,
        },
        give_up_after: Duration::from_secs(1_000),
        lease: Duration::from_secs(20),
    };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn delivery() -> Delivery {
        Delivery {
            transaction: TransactionId::new(),
            endpoint: CALLBACK.to_owned(),
            tenant: TenantName::default(),
            url: "https://erp.example/".to_owned(),
            status: Status::Done,
            settled_at: at(0),
            created_at: at(0),
            progress: Progress::Failed {
                at: at(0),
                reason: String::new(),
            },
            attempts: Vec::new(),
        }
        .asked_for_again(at(0), &PATIENCE)
    }

    fn outcome(verdict: Verdict) -> Outcome {
        Outcome {
            attempt: Attempt {
                at: at(0),
                status: Some(500),
                error: Some("answered 500".to_owned()),
                duration_ms: 1,
            },
            verdict,
        }
    }

    #[test]
    fn ids_are_read_back_and_have_one_spelling() {
        for endpoint in [CALLBACK, "wh_0123456789"] {
            let id = DeliveryId {
                transaction: TransactionId::new(),
                endpoint: endpoint.to_owned(),
            };
            assert_eq!(id.to_string().parse(), Ok(id.clone()));
            let upper = id.to_string().replace(
                &id.transaction.to_string(),
                &id.transaction.to_string().to_uppercase(),
            );
            assert_eq!(upper.parse::<DeliveryId>(), Err(()));
        }
        for bad in ["", "dlv_", "dlv_x_y", "0195"] {
            assert_eq!(bad.parse::<DeliveryId>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn delays_grow_up_to_their_limit_and_a_receiver_may_ask_for_more() {
        let mut delivery = delivery();
        for (now, due) in [(0, 5), (5, 15), (15, 35), (35, 75), (75, 135), (135, 195)] {
            delivery = delivery.after(outcome(Verdict::Again(Duration::ZERO)), at(now), &PATIENCE, 1.0);
            assert_eq!(delivery.due_at(), Some(at(due)));
        }
        let asked = Duration::from_secs(100);
        delivery = delivery.after(outcome(Verdict::Again(asked)), at(200), &PATIENCE, 1.0);
        assert_eq!(delivery.due_at(), Some(at(300)));
        delivery = delivery.after(outcome(Verdict::Again(asked * 10_000)), at(300), &PATIENCE, 1.0);
        assert_eq!(delivery.due_at(), Some(at(300).plus(LONGEST_RETRY_AFTER)));
    }

    #[test]
    fn it_is_given_up_after_an_attempt_past_its_time_and_may_be_asked_for_again() {
        let delivery = delivery();
        let tried = delivery
            .clone()
            .after(outcome(Verdict::Again(Duration::ZERO)), at(999), &PATIENCE, 0.0);
        assert_eq!(tried.due_at(), Some(at(1_004)));
        let failed = tried.after(outcome(Verdict::Again(Duration::ZERO)), at(1_004), &PATIENCE, 0.0);
        assert!(
            matches!(&failed.progress, Progress::Failed { reason, .. } if reason.ends_with("answered 500"))
        );
        let again = failed.asked_for_again(at(2_000), &PATIENCE);
        assert_eq!((again.due_at(), again.attempts.len()), (Some(at(2_000)), 2));
        let gone = delivery.after(outcome(Verdict::Gone), at(1), &PATIENCE, 0.0);
        assert!(matches!(gone.progress, Progress::Failed { .. }));
    }

    #[test]
    fn one_sends_it_at_a_time_until_the_lease_is_over() {
        let claimed = delivery().claimed(at(3), &PATIENCE).expect("is due");
        assert_eq!(claimed.claimed(at(22), &PATIENCE), None);
        assert_eq!(claimed.clone().asked_for_again(at(22), &PATIENCE), claimed);
        assert!(claimed.claimed(at(23), &PATIENCE).is_some());
    }

    #[test]
    fn i7_the_attempts_that_are_kept_are_bounded() {
        let mut delivery = delivery();
        for _ in 0..3 * MOST_ATTEMPTS {
            delivery = delivery.after(outcome(Verdict::Again(Duration::ZERO)), at(1), &PATIENCE, 0.5);
        }
        assert_eq!(delivery.attempts.len(), MOST_ATTEMPTS);
    }
}

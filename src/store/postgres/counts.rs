//! How many are not settled, known without asking.
//!
//! A count of the database, taken now and then, plus what this process has committed since. Whether a commit is
//! in the count already is not a matter of time but of the count's snapshot: each commit tells its transaction
//! number, each count the numbers it saw. So the sum is exact for what this process did, however the two
//! overlap. A commit whose answer was lost comes in with the next count.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::Row;
use tokio::time::Instant;

use super::failure::Failure;
use super::session::Sessions;
use crate::domain::{LedgerName, TenantName};
use crate::store::Backlog;

/// Tenants by themselves, without the default one: both counts read an index alone.
const COUNT: &str = "\
SELECT NULL AS ledger, NULL AS tenant, 0::bigint AS count, pg_current_snapshot()::text AS snapshot \
UNION ALL SELECT ledger, NULL, count(*), NULL FROM work GROUP BY ledger \
UNION ALL SELECT NULL, tenant, count(*), NULL FROM work WHERE tenant IS DISTINCT FROM 'default' GROUP BY tenant";

/// A commit that no count has seen for so long never was in this database: it was restored, or another took
/// its place.
const FORGET: Duration = Duration::from_secs(120);

/// Changes of the count, or a count.
#[derive(Default, Clone)]
pub(super) struct Deltas {
    pub(super) ledgers: BTreeMap<LedgerName, i64>,
    /// All tenants but the default one, which has the rest.
    tenants: BTreeMap<TenantName, i64>,
}

impl Deltas {
    pub(super) fn add(&mut self, ledger: &LedgerName, tenant: &TenantName, change: i64) {
        *self.ledgers.entry(ledger.clone()).or_default() += change;
        if !tenant.is_default() {
            *self.tenants.entry(tenant.clone()).or_default() += change;
        }
    }

    fn add_all(&mut self, others: &Self) {
        for (ledger, change) in &others.ledgers {
            *self.ledgers.entry(ledger.clone()).or_default() += change;
        }
        for (tenant, change) in &others.tenants {
            *self.tenants.entry(tenant.clone()).or_default() += change;
        }
    }
}

#[derive(Default)]
pub(super) struct Counts(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    now: Deltas,
    seen: Snapshot,
    since: Vec<(u64, Deltas, Instant)>,
}

impl Counts {
    pub(super) fn backlog(&self) -> Backlog {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let positive = |(ledger, count): (&LedgerName, &i64)| {
            Some((
                ledger.clone(),
                u64::try_from(*count).ok().filter(|count| *count > 0)?,
            ))
        };
        inner.now.ledgers.iter().filter_map(positive).collect()
    }

    pub(super) fn pending_of(&self, tenant: &TenantName) -> u64 {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (ledgers, tenants) = (&inner.now.ledgers, &inner.now.tenants);
        let pending = match tenant.is_default() {
            true => ledgers.values().sum::<i64>() - tenants.values().sum::<i64>(),
            false => tenants.get(tenant).copied().unwrap_or_default(),
        };
        u64::try_from(pending).unwrap_or_default()
    }

    /// This process made a commit with the number `transaction`.
    pub(super) fn committed(&self, transaction: &str, deltas: &Deltas) {
        let Ok(transaction) = transaction.parse() else {
            return;
        };
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if deltas.ledgers.is_empty() || inner.seen.sees(transaction) {
            return;
        }
        inner.now.add_all(deltas);
        inner.since.push((transaction, deltas.clone(), Instant::now()));
    }

    /// Counts anew. Answers how long the database took for it.
    pub(super) async fn refresh(&self, sessions: &Sessions) -> Result<Duration, Failure> {
        let (mut counted, mut seen) = (Deltas::default(), Snapshot::default());
        let mut session = sessions.take(sessions.deadline()).await?;
        let start = Instant::now();
        let rows = session.rows(sqlx::query(COUNT)).await?;
        let took = start.elapsed();
        drop(session);
        for row in rows {
            let (ledger, tenant): (Option<&str>, Option<&str>) =
                (row.try_get("ledger")?, row.try_get("tenant")?);
            if let Some(ledger) = ledger {
                let name = LedgerName::new(ledger)
                    .ok_or_else(|| Failure::Damaged(format!("a ledger is named {ledger:?}")))?;
                counted.ledgers.insert(name, row.try_get("count")?);
            } else if let Some(tenant) = tenant {
                let name = TenantName::new(tenant)
                    .ok_or_else(|| Failure::Damaged(format!("a tenant is named {tenant:?}")))?;
                counted.tenants.insert(name, row.try_get("count")?);
            } else {
                seen = Snapshot::parse(row.try_get("snapshot")?);
            }
        }
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .since
            .retain(|(transaction, _, at)| !seen.sees(*transaction) && at.elapsed() < FORGET);
        for (_, deltas, _) in &inner.since {
            counted.add_all(deltas);
        }
        inner.now = counted;
        inner.seen = seen;
        Ok(took)
    }
}

/// Which transactions a statement saw: `xmin:xmax:in,progress`.
#[derive(Default)]
struct Snapshot {
    from: u64,
    to: u64,
    in_progress: Vec<u64>,
}

impl Snapshot {
    fn parse(text: &str) -> Self {
        let mut parts = text.split(':');
        let mut number = || {
            parts
                .next()
                .and_then(|part| part.parse().ok())
                .unwrap_or_default()
        };
        let (from, to) = (number(), number());
        let in_progress = parts.next().unwrap_or_default().split(',');
        Self {
            from,
            to,
            in_progress: in_progress.filter_map(|part| part.parse().ok()).collect(),
        }
    }

    fn sees(&self, transaction: u64) -> bool {
        transaction < self.from || (transaction < self.to && !self.in_progress.contains(&transaction))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_what_was_committed_before_it() {
        let snapshot = Snapshot::parse("10:20:10,14");
        let seen: Vec<_> = (8..22).filter(|number| snapshot.sees(*number)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 15, 16, 17, 18, 19]);
        assert!(!Snapshot::parse("10:10:").sees(10));
    }
}

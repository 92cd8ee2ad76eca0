//! What the configuration allows to each tenant: how fast, and which ledgers and contracts.
//!
//! A tenant without a section has no limits. Rates hold in each process by itself and start full; nothing is kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota};

use crate::config::{TenantRate, TenantSettings};
use crate::domain::TenantName;

/// Why a tenant may not do something now, or at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantRefusal {
    /// It may not use that ledger or contract.
    NotAllowed(String),
    /// It is faster than it may be; it is to wait so long.
    TooFast(Duration),
    /// It has as many unsettled transactions as it may.
    Full {
        /// How many that is.
        max_pending: u64,
        /// When half a per cent of it should be worked off.
        retry_after: Duration,
    },
}

/// The tenants that have limits.
pub struct Tenants(BTreeMap<TenantName, Arc<Limits>>);

struct Limits {
    settings: TenantSettings,
    rate: Option<DefaultDirectRateLimiter>,
}

impl Tenants {
    /// With these limits.
    pub fn new(settings: &BTreeMap<TenantName, TenantSettings>) -> Self {
        Self(BTreeMap::new()).changed(settings)
    }

    /// With other limits. Whose limits are as they were goes on with what is left of its rate.
    pub(super) fn changed(&self, settings: &BTreeMap<TenantName, TenantSettings>) -> Self {
        let limits = |(name, settings): (&TenantName, &TenantSettings)| {
            let kept = self.0.get(name).filter(|limits| limits.settings == *settings);
            let limits = kept.cloned().unwrap_or_else(|| {
                Arc::new(Limits {
                    settings: settings.clone(),
                    rate: settings.rate.map(limiter),
                })
            });
            (name.clone(), limits)
        };
        Self(settings.iter().map(limits).collect())
    }

    /// Whether `tenant` may use this ledger at all.
    pub(super) fn sees(&self, tenant: &TenantName, ledger: &str) -> bool {
        let ledgers = self
            .0
            .get(tenant)
            .and_then(|limits| limits.settings.ledgers.as_ref());
        ledgers.is_none_or(|ledgers| ledgers.iter().any(|allowed| allowed.as_str() == ledger))
    }

    /// How many unsettled transactions `tenant` may have.
    pub(super) fn max_pending(&self, tenant: &TenantName) -> Option<u64> {
        Some(self.0.get(tenant)?.settings.max_pending?.get())
    }

    /// Whether `tenant` may call this contract at all.
    pub(super) fn allows(
        &self,
        tenant: &TenantName,
        ledger: &str,
        contract: &str,
    ) -> Result<(), TenantRefusal> {
        let Some(limits) = self.0.get(tenant) else {
            return Ok(());
        };
        let settings = &limits.settings;
        let refused = |what: &str, name: &str, allowed: Vec<&str>| {
            Err(TenantRefusal::NotAllowed(format!(
                "the tenant {tenant} may not use the {what} {name:?}; it may use: {}",
                if allowed.is_empty() {
                    "none".to_owned()
                } else {
                    allowed.join(", ")
                }
            )))
        };
        if !self.sees(tenant, ledger) {
            let allowed = settings.ledgers.iter().flatten().map(|name| name.as_str());
            return refused("ledger", ledger, allowed.collect());
        }
        if let Some(contracts) = &settings.contracts
            && !contracts.iter().any(|allowed| allowed == contract)
        {
            return refused(
                "contract",
                contract,
                contracts.iter().map(String::as_str).collect(),
            );
        }
        Ok(())
    }

    /// Whether `tenant` is not too fast; if so, that counts.
    pub(super) fn admit(&self, tenant: &TenantName) -> Result<(), TenantRefusal> {
        let rate = self.0.get(tenant).and_then(|limits| limits.rate.as_ref());
        match rate.map(DefaultDirectRateLimiter::check) {
            Some(Err(early)) => Err(TenantRefusal::TooFast(
                early.wait_time_from(DefaultClock::default().now()),
            )),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

fn limiter(rate: TenantRate) -> DefaultDirectRateLimiter {
    let period = Duration::from_secs_f64(1.0 / rate.per_second).max(Duration::from_nanos(1));
    let quota = Quota::with_period(period).unwrap_or(Quota::per_second(rate.burst));
    DefaultDirectRateLimiter::direct(quota.allow_burst(rate.burst))
}

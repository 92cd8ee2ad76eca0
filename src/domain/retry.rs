//! When to try again, and when to stop.
//!
//! Conflicts and outages have separate budgets: an hour without a ledger must not use up the tries
//! that a busy key needs. Jitter within small bounds is the default for conflicts, because delays that
//! grow exponentially make response times grow exponentially too.

use std::num::NonZeroU32;
use std::time::Duration;

/// How the delay before try number *n* is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DelayStrategy {
    /// Anywhere between `min` and `max`, whatever *n* is.
    Jitter,
    /// Always `min`.
    Constant,
    /// Between `min` and `min × 2^(n-1)`, at most `max` ("full jitter").
    Exponential,
}

impl DelayStrategy {
    /// All strategies.
    pub const ALL: [Self; 3] = [Self::Jitter, Self::Constant, Self::Exponential];

    /// The name in configurations and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jitter => "jitter",
            Self::Constant => "constant",
            Self::Exponential => "exponential",
        }
    }
}

/// Delay bounds and a limit on tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySettings {
    /// How the delay is chosen.
    pub strategy: DelayStrategy,
    /// Shortest delay.
    pub min: Duration,
    /// Longest delay; never below `min`.
    pub max: Duration,
    /// After so many tries that ended this way it gives up; `None` never does.
    pub max_attempts: Option<NonZeroU32>,
}

/// What to do after a try that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Try again after this delay.
    Retry(Duration),
    /// The budget is used up.
    GiveUp,
}

impl RetrySettings {
    /// Decides after the `tries`-th try (1 for the first) ended this way. `chance` is a random number
    /// in `[0, 1)`.
    pub fn decide(&self, tries: u32, chance: f64) -> Decision {
        if self.max_attempts.is_some_and(|max| tries >= max.get()) {
            return Decision::GiveUp;
        }
        let ceiling = match self.strategy {
            DelayStrategy::Constant => self.min,
            DelayStrategy::Jitter => self.max,
            DelayStrategy::Exponential => {
                let doublings = tries.saturating_sub(1).min(31);
                self.min.saturating_mul(1 << doublings).min(self.max)
            }
        };
        let span = ceiling.saturating_sub(self.min);
        Decision::Retry(self.min + span.mul_f64(chance.clamp(0.0, 1.0)))
    }
}

/// The two budgets of one ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// After the ledger called a submission invalid because of a conflict.
    pub conflict: RetrySettings,
    /// After the ledger could not be reached.
    pub outage: RetrySettings,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(strategy: DelayStrategy, max_attempts: u32) -> RetrySettings {
        RetrySettings {
            strategy,
            min: Duration::from_millis(50),
            max: Duration::from_millis(500),
            max_attempts: NonZeroU32::new(max_attempts),
        }
    }

    #[test]
    fn gives_up_exactly_at_the_limit() {
        let limited = settings(DelayStrategy::Jitter, 3);
        assert!(matches!(limited.decide(2, 0.5), Decision::Retry(_)));
        assert_eq!(limited.decide(3, 0.5), Decision::GiveUp);
        let endless = settings(DelayStrategy::Jitter, 0);
        assert!(matches!(endless.decide(u32::MAX, 0.5), Decision::Retry(_)));
    }

    #[test]
    fn exponential_doubles_its_ceiling_up_to_the_maximum() {
        let policy = settings(DelayStrategy::Exponential, 0);
        let ceilings: Vec<_> = (1..=6)
            .map(|tries| match policy.decide(tries, 1.0) {
                Decision::Retry(delay) => delay.as_millis(),
                Decision::GiveUp => 0,
            })
            .collect();
        assert_eq!(ceilings, [50, 100, 200, 400, 500, 500]);
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds(tries in 1_u32.., chance in 0.0_f64..1.0, pick in 0..3) {
            let strategy = [DelayStrategy::Jitter, DelayStrategy::Constant, DelayStrategy::Exponential][pick as usize];
            let policy = settings(strategy, 0);
            let Decision::Retry(delay) = policy.decide(tries, chance) else {
                return Err(TestCaseError::fail("gave up without a limit"));
            };
            prop_assert!(delay >= policy.min && delay <= policy.max);
            if strategy == DelayStrategy::Constant {
                prop_assert_eq!(delay, policy.min);
            }
        }
    }
}

//! Which key a call is about: how unevenly a load is spread over keys.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rand::{Rng, RngExt};

/// The exponent where none is given, as the Yahoo Cloud Serving Benchmark has it.
const EXPONENT: f64 = 0.99;
/// A skewed load keeps eight bytes for each key.
const MOST: u32 = 10_000_000;

/// A distribution over keys that are numbered from 1.
#[derive(Debug, Clone)]
pub(super) enum Keys {
    /// All keys alike.
    Uniform(u32),
    /// Key number k is drawn in proportion to k to the power of minus the exponent.
    Zipf {
        count: u32,
        exponent: f64,
        /// What all keys up to this one weigh together.
        cumulative: Arc<[f64]>,
    },
    /// One key.
    Hot,
}

impl Keys {
    pub(super) fn draw(&self, rng: &mut impl Rng) -> u32 {
        match self {
            Self::Uniform(count) => rng.random_range(1..=*count),
            Self::Zipf {
                count, cumulative, ..
            } => {
                let all = cumulative.last().copied().unwrap_or_default();
                let at = all * rng.random::<f64>();
                let before = cumulative.partition_point(|&weight| weight <= at);
                // Rounding must not lead past the last key.
                u32::try_from(before + 1).unwrap_or(*count).min(*count)
            }
            Self::Hot => 1,
        }
    }
}

impl FromStr for Keys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let count = |text: &str| match text.replace('_', "").parse::<u32>() {
            Ok(count) if (1..=MOST).contains(&count) => Ok(count),
            _ => Err(format!(
                "the number of keys has to be from 1 to {MOST}, not {text:?}"
            )),
        };
        let zipf = |count: u32, exponent: f64| {
            if !(0.0..=100.0).contains(&exponent) {
                return Err(format!(
                    "the exponent has to be from 0 to 100, not {exponent}; 0.99 is usual"
                ));
            }
            let cumulative = (1..=count).scan(0.0, |all, key| {
                *all += f64::from(key).powf(-exponent);
                Some(*all)
            });
            Ok(Self::Zipf {
                count,
                exponent,
                cumulative: cumulative.collect(),
            })
        };
        match parts[..] {
            ["hot"] => Ok(Self::Hot),
            ["uniform", keys] => Ok(Self::Uniform(count(keys)?)),
            ["zipf", keys] => zipf(count(keys)?, EXPONENT),
            ["zipf", keys, exponent] => match exponent.parse() {
                Ok(exponent) => zipf(count(keys)?, exponent),
                Err(_) => Err(format!("the exponent has to be a number, not {exponent:?}")),
            },
            _ => Err("write uniform:N, zipf:N, zipf:N:EXPONENT or hot, such as zipf:1000:0.99".to_owned()),
        }
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform(count) => write!(f, "uniform:{count}"),
            Self::Zipf { count, exponent, .. } => write!(f, "zipf:{count}:{exponent}"),
            Self::Hot => f.write_str("hot"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn drawn(keys: &str, times: u32) -> HashMap<u32, u32> {
        let keys: Keys = keys.parse().expect("valid");
        let mut rng = StdRng::seed_from_u64(7);
        let mut counts = HashMap::new();
        for _ in 0..times {
            *counts.entry(keys.draw(&mut rng)).or_default() += 1;
        }
        counts
    }

    #[test]
    fn zipf_is_as_skewed_as_its_exponent_says() {
        let counts = drawn("zipf:1000:1", 200_000);
        assert!(counts.keys().all(|key| (1..=1000).contains(key)));
        // With exponent 1 the share of key k is 1 / (k H(1000)).
        let harmonic: f64 = (1..=1000).map(|k| 1.0 / f64::from(k)).sum();
        for key in [1, 2, 10, 50] {
            let expected = 200_000.0 / (f64::from(key) * harmonic);
            let ratio = f64::from(counts[&key]) / expected;
            assert!((0.85..1.15).contains(&ratio), "key {key}: {ratio}");
        }
        // And with 0 there is no skew.
        let even = drawn("zipf:10:0", 100_000);
        assert!(
            even.values().all(|&count| (9_000..11_000).contains(&count)),
            "{even:?}"
        );
    }

    #[test]
    fn uniform_draws_all_alike_and_hot_one() {
        let even = drawn("uniform:10", 100_000);
        assert_eq!(even.len(), 10);
        assert!(
            even.values().all(|&count| (9_000..11_000).contains(&count)),
            "{even:?}"
        );
        assert_eq!(drawn("hot", 10), HashMap::from([(1, 10)]));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, told) in [
            ("", "write uniform:N"),
            ("uniform", "write uniform:N"),
            ("uniform:0", "from 1 to"),
            ("zipf:x", "from 1 to"),
            ("zipf:10:-1", "from 0 to 100"),
            ("zipf:10:NaN", "from 0 to 100"),
            ("zipf:10:inf", "from 0 to 100"),
            ("zipf:10:a", "has to be a number"),
            ("hot:1", "write uniform:N"),
        ] {
            let error = text.parse::<Keys>().expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
        assert_eq!(
            "zipf:1_000".parse::<Keys>().expect("valid").to_string(),
            "zipf:1000:0.99"
        );
    }
}

//! The options that describe a load, checked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum, value_parser};
use serde::{Deserialize, Serialize};

use super::call::{self, Call};
use super::keys::Keys;
use crate::domain::LedgerName;

/// A load. It goes by a schedule (--rate) or by what comes back (--connections).
#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// Open loop: so many transactions a second, however long the answers take
    #[arg(
        long,
        value_name = "PER_SECOND",
        value_parser = rate,
        required_unless_present = "connections",
        conflicts_with = "connections"
    )]
    rate: Option<f64>,
    /// Closed loop: so many callers, each of which waits for an answer before it sends again
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=100_000))]
    connections: Option<u32>,
    /// How the transactions of an open loop are spread over time
    #[arg(long, value_enum, default_value = "even", conflicts_with = "connections")]
    arrivals: Arrivals,
    /// How long the load is measured
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "30")]
    duration: Duration,
    /// How long the same load goes on before that, unmeasured
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "5")]
    warm_up: Duration,
    /// Which keys {key} stands for: uniform:N, zipf:N, zipf:N:EXPONENT or hot (always the same)
    #[arg(long, value_name = "SKEW", default_value = "uniform:10000")]
    keys: Keys,
    /// The ledger, as the gateway's configuration names it
    #[arg(long, value_name = "NAME", default_value = "main", value_parser = ledger)]
    pub(super) ledger: LedgerName,
    /// The contract (chaincode) to call [default: the ledger's default_contract]
    #[arg(long, value_name = "NAME", conflicts_with = "mix")]
    contract: Option<String>,
    /// Its function
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present = "mix",
        conflicts_with = "mix"
    )]
    function: Option<String>,
    /// Its arguments, a JSON array; {key}, {run} and, as n in braces, the number of the transaction are filled in
    #[arg(long, value_name = "JSON", default_value = "[]", conflicts_with = "mix")]
    args: call::Args,
    /// One of several calls, drawn by weight: 'WEIGHT CONTRACT FUNCTION ARGS'; repeat it for more
    #[arg(long, value_name = "CALL")]
    mix: Vec<Call>,
    /// Give up on an answer after so long
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "30")]
    timeout: Duration,
    /// Wait so long, after the load, for what is not settled yet
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
    settle: Duration,
    /// An open loop has so many requests under way at most; others are sent late, which shows in their latency
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = value_parser!(u32).range(1..=100_000), conflicts_with = "connections")]
    max_in_flight: u32,
    /// The same seed draws the same keys, calls and arrivals [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write everything that was measured to this file, for `bench compare`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a report with plots to this file; it needs no other file and no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// When the transactions of an open loop arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Arrivals {
    /// At the same distance from one another
    Even,
    /// Independently of one another, as those of many callers do
    Poisson,
}

/// What paces a load.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Pace {
    Open {
        per_second: f64,
        arrivals: Arrivals,
        max_in_flight: u32,
    },
    Closed {
        connections: u32,
    },
}

/// A load that makes sense.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) pace: Pace,
    pub(super) duration: Duration,
    pub(super) warm_up: Duration,
    pub(super) keys: Keys,
    pub(super) ledger: LedgerName,
    pub(super) calls: Vec<Call>,
    pub(super) timeout: Duration,
    pub(super) settle: Duration,
    pub(super) seed: u64,
}

/// Where reports go.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) json: Option<PathBuf>,
    pub(super) html: Option<PathBuf>,
}

impl LoadArgs {
    pub(super) fn check(self) -> anyhow::Result<(Load, Files)> {
        for (option, file) in [("--json", &self.json), ("--html", &self.html)] {
            if let Some(file) = file {
                can_be_written(file).with_context(|| format!("{option} {}", file.display()))?;
            }
        }
        ensure!(
            !self.duration.is_zero(),
            "--duration has to be longer than 0; a load of 0 seconds measures nothing"
        );
        let pace = match (self.rate, self.connections) {
            (Some(per_second), None) => Pace::Open {
                per_second,
                arrivals: self.arrivals,
                max_in_flight: self.max_in_flight,
            },
            (None, Some(connections)) => Pace::Closed { connections },
            _ => bail!("give one of --rate and --connections"),
        };
        let calls = match self.function {
            Some(function) => vec![Call {
                weight: 1,
                contract: self.contract,
                function,
                args: self.args,
            }],
            None => self.mix,
        };
        ensure!(!calls.is_empty(), "give --function, or one --mix or more");
        let load = Load {
            pace,
            duration: self.duration,
            warm_up: self.warm_up,
            keys: self.keys,
            ledger: self.ledger,
            calls,
            timeout: self.timeout,
            settle: self.settle,
            seed: self.seed.unwrap_or_else(rand::random),
        };
        let files = Files {
            json: self.json,
            html: self.html,
        };
        Ok((load, files))
    }
}

/// Found out before a long run, not after it.
fn can_be_written(file: &Path) -> anyhow::Result<()> {
    ensure!(!file.is_dir(), "is a directory; name a file in it");
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    ensure!(
        folder.is_dir(),
        "{} is no directory; make it first",
        folder.display()
    );
    Ok(())
}

/// What a report says of the load, and what makes two reports comparable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LoadView {
    pub(super) pace: Pace,
    pub(super) duration_seconds: f64,
    pub(super) warm_up_seconds: f64,
    pub(super) keys: String,
    pub(super) ledger: String,
    pub(super) calls: Vec<CallView>,
    pub(super) timeout_seconds: f64,
    pub(super) settle_seconds: f64,
    pub(super) seed: u64,
}

/// One call of a load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CallView {
    pub(super) weight: u32,
    pub(super) contract: Option<String>,
    pub(super) function: String,
    pub(super) args: String,
}

impl From<&Load> for LoadView {
    fn from(load: &Load) -> Self {
        let call = |call: &Call| CallView {
            weight: call.weight,
            contract: call.contract.clone(),
            function: call.function.clone(),
            args: call.args.as_str().to_owned(),
        };
        Self {
            pace: load.pace,
            duration_seconds: load.duration.as_secs_f64(),
            warm_up_seconds: load.warm_up.as_secs_f64(),
            keys: load.keys.to_string(),
            ledger: load.ledger.to_string(),
            calls: load.calls.iter().map(call).collect(),
            timeout_seconds: load.timeout.as_secs_f64(),
            settle_seconds: load.settle.as_secs_f64(),
            seed: load.seed,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 0.0..=604_800.0) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("write seconds, from 0 to 604800 (a week), such as 30 or 0.5".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.replace('_', "").parse() {
        Ok(rate @ 0.001..=1_000_000.0) => Ok(rate),
        _ => Err("write transactions a second, from 0.001 to 1000000".to_owned()),
    }
}

fn ledger(text: &str) -> Result<LedgerName, String> {
    LedgerName::new(text).ok_or_else(|| {
        "a ledger's name is 1 to 64 of a-z 0-9 _ -, starting with a letter or digit".to_owned()
    })
}

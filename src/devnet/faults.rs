//! Faults on demand: what goes wrong, how often, and where.
//!
//! One table of [`Fault`]s. A call takes the first one that is meant for its method and due; a fault with a count is
//! used up by it. Crash points and the two switches (block cutting, block stream) are apart, because no call has them.
//!
//! | action | the call is executed | the client sees |
//! |---|---|---|
//! | `refuse` | no | the given code, message and details |
//! | `close_before` | no | the connection closed |
//! | `delay` | after the delay | its reply |
//! | `drop_reply` | yes | nothing, until its own deadline |
//! | `close_after` | yes | the connection closed |

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::ledger::simulator::Interference;

/// A method of the two services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// `Gateway.Evaluate`
    Evaluate,
    /// `Gateway.Endorse`
    Endorse,
    /// `Gateway.Submit`
    Submit,
    /// `Gateway.CommitStatus`
    CommitStatus,
    /// `Gateway.ChaincodeEvents`
    ChaincodeEvents,
    /// `Deliver.Deliver`
    Deliver,
    /// `Deliver.DeliverFiltered`
    DeliverFiltered,
    /// `Deliver.DeliverWithPrivateData`
    DeliverWithPrivateData,
}

impl Method {
    pub(super) const ALL: [Self; 8] = [
        Self::Evaluate,
        Self::Endorse,
        Self::Submit,
        Self::CommitStatus,
        Self::ChaincodeEvents,
        Self::Deliver,
        Self::DeliverFiltered,
        Self::DeliverWithPrivateData,
    ];

    /// Its name in faults and counters.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Evaluate => "evaluate",
            Self::Endorse => "endorse",
            Self::Submit => "submit",
            Self::CommitStatus => "commit_status",
            Self::ChaincodeEvents => "chaincode_events",
            Self::Deliver => "deliver",
            Self::DeliverFiltered => "deliver_filtered",
            Self::DeliverWithPrivateData => "deliver_with_private_data",
        }
    }
}

/// What one peer or orderer is made to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detail {
    /// Its address.
    #[serde(default)]
    pub address: String,
    /// Its organisation.
    #[serde(default)]
    pub msp_id: String,
    /// Its words.
    pub message: String,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Refuses the call before it is executed.
    Refuse {
        /// The gRPC code as a number.
        code: i32,
        /// Its text.
        #[serde(default)]
        message: String,
        /// What peers and orderers say.
        #[serde(default)]
        details: Vec<Detail>,
    },
    /// Closes the connection before the call is executed.
    CloseBefore,
    /// Executes the call later.
    Delay {
        /// How much later.
        ms: u64,
    },
    /// Executes the call and never answers.
    DropReply,
    /// Executes the call and closes the connection.
    CloseAfter,
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// The method it is meant for.
    pub method: Method,
    /// What goes wrong.
    #[serde(flatten)]
    pub action: Action,
    /// For how many calls; until it is cleared, if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// For which share of the calls; for every one, if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
}

/// Where the process can be made to end, as by SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CrashPoint {
    /// A proposal is endorsed, the reply not sent.
    BeforeEndorseReply,
    /// An envelope arrived, and was not given to the orderer.
    BeforeOrder,
    /// The orderer took an envelope, the reply is not sent.
    BeforeSubmitReply,
    /// The transactions of a block are chosen, the block is not stored.
    AfterOrderBeforeBlock,
    /// A block is stored, and nobody was told.
    AfterBlockBeforeReply,
}

impl Fault {
    /// Reads a fault as JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &str) -> Result<Self, String> {
        let fault: Self = serde_json::from_str(json).map_err(|error| error.to_string())?;
        fault.check().map(|()| fault)
    }

    /// Whether it can ever strike.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.count == Some(0) {
            return Err("a count of 0 is no fault; leave it out for one that stays".into());
        }
        if self
            .probability
            .is_some_and(|share| !(0.0..=1.0).contains(&share))
        {
            return Err("a probability goes from 0 to 1".into());
        }
        if matches!(self.action, Action::Refuse { code, .. } if !(1..=16).contains(&code)) {
            return Err("a gRPC code goes from 1 to 16".into());
        }
        Ok(())
    }
}

impl FromStr for CrashPoint {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        serde_json::from_value(name.into()).map_err(|error| error.to_string())
    }
}

/// What is shown of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Listed {
    /// Names the row when it is cleared.
    pub(super) id: u64,
    #[serde(flatten)]
    pub(super) fault: Fault,
}

#[derive(Default)]
struct Table {
    next: u64,
    rows: Vec<Listed>,
    crash: Option<CrashPoint>,
}

/// What goes wrong on demand.
pub(super) struct Faults {
    table: Mutex<Table>,
    /// Whether blocks are cut.
    cutting: watch::Sender<bool>,
    /// Whether streams of blocks flow.
    flowing: watch::Sender<bool>,
    calls: [AtomicU64; Method::ALL.len()],
    struck: AtomicU64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            cutting: watch::Sender::new(true),
            flowing: watch::Sender::new(true),
            calls: Default::default(),
            struck: AtomicU64::new(0),
        }
    }
}

impl Faults {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a row and answers its number.
    pub(super) fn add(&self, fault: Fault) -> u64 {
        let mut table = self.table();
        table.next += 1;
        let id = table.next;
        table.rows.push(Listed { id, fault });
        id
    }

    /// The rows, and the crash to come.
    pub(super) fn list(&self) -> (Vec<Listed>, Option<CrashPoint>) {
        let table = self.table();
        (table.rows.clone(), table.crash)
    }

    /// Removes one row, or all with the crash to come; lets blocks be cut and flow again in the second case.
    pub(super) fn clear(&self, id: Option<u64>) -> bool {
        let mut table = self.table();
        let before = table.rows.len();
        match id {
            Some(id) => table.rows.retain(|row| row.id != id),
            None => {
                table.rows.clear();
                table.crash = None;
                self.cutting.send_replace(true);
                self.flowing.send_replace(true);
            }
        }
        id.is_none() || table.rows.len() < before
    }

    /// Counts a call and takes the fault that is due for it.
    pub(super) fn take(&self, method: Method) -> Option<Action> {
        self.calls[method as usize].fetch_add(1, Ordering::Relaxed);
        let mut table = self.table();
        let at = table.rows.iter().position(|row| {
            let chance = row
                .fault
                .probability
                .is_none_or(|share| rand::random::<f64>() < share);
            row.fault.method == method && chance
        })?;
        let fault = &mut table.rows[at].fault;
        let action = fault.action.clone();
        if let Some(count) = &mut fault.count {
            *count = count.saturating_sub(1);
            if *count == 0 {
                table.rows.remove(at);
            }
        }
        self.struck.fetch_add(1, Ordering::Relaxed);
        Some(action)
    }

    /// How often each method was called, and how many calls had a fault.
    pub(super) fn counters(&self) -> (Vec<(Method, u64)>, u64) {
        let calls = Method::ALL.map(|method| (method, self.calls[method as usize].load(Ordering::Relaxed)));
        (calls.into(), self.struck.load(Ordering::Relaxed))
    }

    /// Ends the process when it next gets there; `None` lets it live.
    pub(super) fn crash_at(&self, point: Option<CrashPoint>) {
        self.table().crash = point;
    }

    /// Ends the process if it is to end here, with nothing stored or said.
    pub(super) fn crash_if(&self, point: CrashPoint) {
        if self.table().crash == Some(point) {
            std::process::abort();
        }
    }

    /// Whether blocks are cut.
    pub(super) fn cutting(&self) -> &watch::Sender<bool> {
        &self.cutting
    }

    /// Whether streams of blocks flow.
    pub(super) fn flowing(&self) -> &watch::Sender<bool> {
        &self.flowing
    }
}

/// Waits until a switch is on. The switch lives as long as the faults.
pub(super) async fn until_on(switch: &watch::Sender<bool>) {
    let mut position = switch.subscribe();
    let _gone = position.wait_for(|on| *on).await;
}

#[async_trait]
impl Interference for Faults {
    async fn before_block(&self) {
        until_on(&self.cutting).await;
        self.crash_if(CrashPoint::AfterOrderBeforeBlock);
    }

    fn after_block(&self) {
        self.crash_if(CrashPoint::AfterBlockBeforeReply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_written_as_json() {
        let fault = Fault::parse(
            r#"{"method": "submit", "action": "refuse", "code": 14, "message": "no", "details": [{"message": "m"}], "count": 2}"#,
        );
        let fault = fault.expect("a fault");
        assert_eq!((fault.method, fault.count), (Method::Submit, Some(2)));
        for (wrong, words) in [
            (r#"{"method": "submit", "action": "explode"}"#, "explode"),
            (r#"{"method": "submit", "action": "delay"}"#, "ms"),
            (
                r#"{"method": "submit", "action": "delay", "ms": 5, "sometimes": true}"#,
                "sometimes",
            ),
            (
                r#"{"method": "submit", "action": "drop_reply", "count": 0}"#,
                "count",
            ),
            (
                r#"{"method": "submit", "action": "drop_reply", "probability": 2}"#,
                "probability",
            ),
            (r#"{"method": "submit", "action": "refuse", "code": 0}"#, "code"),
        ] {
            let error = Fault::parse(wrong).expect_err(wrong);
            assert!(error.contains(words), "{wrong}: {error}");
        }
        for method in Method::ALL {
            assert_eq!(serde_json::to_value(method).expect("JSON"), method.as_str());
        }
        assert_eq!("before-order".parse(), Ok(CrashPoint::BeforeOrder));
        assert!("nowhere".parse::<CrashPoint>().is_err());
    }

    #[test]
    fn a_fault_is_used_up_and_meant_for_one_method() {
        let faults = Faults::default();
        let fault = |count, probability| Fault {
            method: Method::Submit,
            action: Action::DropReply,
            count,
            probability,
        };
        faults.add(fault(Some(2), None));
        assert_eq!(faults.take(Method::Endorse), None);
        let taken = [(); 3].map(|()| faults.take(Method::Submit).is_some());
        assert_eq!(taken, [true, true, false]);
        let never = faults.add(fault(None, Some(0.0)));
        assert_eq!(faults.take(Method::Submit), None);
        assert!(faults.clear(Some(never)) && !faults.clear(Some(never)));
        faults.add(fault(None, None));
        assert!((0..9).all(|_| faults.take(Method::Submit).is_some()));
        faults.clear(None);
        assert_eq!(faults.take(Method::Submit), None);
        assert_eq!(faults.counters().1, 11);
    }
}

//! The built-in contracts and how one is called.
//!
//! A contract is a table of functions over a [`Stub`]; it keeps no state of its own and takes no time, so
//! executing one call against one state always gives the same effects.

mod basic;
mod counter;
mod token;

use std::fmt;

use thiserror::Error;

use crate::kv::KvError;

use super::stub::Stub;

/// Why a call came to nothing.
#[derive(Debug, Error)]
pub(super) enum ContractError {
    /// The contract refuses it, in its own words.
    #[error("{0}")]
    Refused(String),
    /// The state could not be read.
    #[error(transparent)]
    Storage(#[from] KvError),
}

/// What a function returns: text, or nothing.
pub(super) type Returned = Result<Option<String>, ContractError>;

/// A refusal in the contract's own words.
pub(super) fn refuse<T>(message: impl Into<String>) -> Result<T, ContractError> {
    Err(ContractError::Refused(message.into()))
}

/// One contract.
pub(super) struct Contract {
    /// Without NUL: it ends where the key begins.
    name: &'static str,
    functions: &'static [Function],
}

impl Contract {
    fn function_names(&self) -> String {
        join(self.functions.iter().map(|function| function.name))
    }
}

impl fmt::Debug for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// One function of a contract.
pub(super) struct Function {
    /// Its name.
    name: &'static str,
    /// Whether it reads ranges, which may take long.
    pub(super) scans: bool,
    run: fn(&mut Stub<'_>, Args<'_>) -> Returned,
}

impl Function {
    const fn new(name: &'static str, run: fn(&mut Stub<'_>, Args<'_>) -> Returned) -> Self {
        Self {
            name,
            scans: false,
            run,
        }
    }

    const fn scanning(name: &'static str, run: fn(&mut Stub<'_>, Args<'_>) -> Returned) -> Self {
        Self {
            name,
            scans: true,
            run,
        }
    }

    /// Runs it over `stub`, which keeps what it read and wrote.
    ///
    /// # Errors
    /// [`ContractError`].
    pub(super) fn call(&self, stub: &mut Stub<'_>, args: &[String]) -> Returned {
        (self.run)(
            stub,
            Args {
                function: self.name,
                values: args,
            },
        )
    }
}

/// The arguments of a call.
#[derive(Clone, Copy)]
pub(super) struct Args<'a> {
    function: &'static str,
    values: &'a [String],
}

impl<'a> Args<'a> {
    /// The arguments, if there are exactly as many as `names`.
    ///
    /// # Errors
    /// A refusal that says which arguments are expected.
    fn expect<const N: usize>(self, names: [&str; N]) -> Result<[&'a str; N], ContractError> {
        match <&[String; N]>::try_from(self.values) {
            Ok(values) => Ok(values.each_ref().map(String::as_str)),
            Err(_) if N == 0 => refuse(format!(
                "{} takes no arguments, got {}",
                self.function,
                self.values.len()
            )),
            Err(_) => refuse(format!(
                "{} takes {N} argument{} ({}), got {}",
                self.function,
                if N == 1 { "" } else { "s" },
                names.join(", "),
                self.values.len()
            )),
        }
    }
}

/// Refuses an empty argument: it would be an empty key, which no ledger of this kind knows.
fn not_empty<'a>(name: &str, value: &'a str) -> Result<&'a str, ContractError> {
    if value.is_empty() {
        return refuse(format!("{name} must not be empty"));
    }
    Ok(value)
}

/// All contracts of the simulator.
static ALL: [&Contract; 3] = [&basic::CONTRACT, &token::CONTRACT, &counter::CONTRACT];

/// Whether there is a contract of this name.
pub(crate) fn exists(name: &str) -> bool {
    ALL.iter().any(|contract| contract.name == name)
}

/// A name that stands for nothing.
#[derive(Debug, Error)]
pub(super) enum Unknown {
    /// There is no such contract.
    #[error("there is no contract {0:?}; there are: {names}", names = contract_names())]
    Contract(String),
    /// The contract has no such function.
    #[error("{} has no function {name:?}; it has: {}", contract.name, contract.function_names())]
    Function {
        /// The contract.
        contract: &'static Contract,
        /// The name asked for.
        name: String,
    },
}

impl Unknown {
    /// The ledger's code.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Contract(_) => "UNKNOWN_CONTRACT",
            Self::Function { .. } => "UNKNOWN_FUNCTION",
        }
    }

    /// JSON Pointer of the field of a request that is at fault.
    pub(super) fn pointer(&self) -> &'static str {
        match self {
            Self::Contract(_) => "/contract",
            Self::Function { .. } => "/function",
        }
    }
}

/// The function of these names.
///
/// # Errors
/// [`Unknown`] names what there is instead.
pub(super) fn find(contract: &str, function: &str) -> Result<&'static Function, Unknown> {
    let contract = ALL
        .into_iter()
        .find(|known| known.name == contract)
        .ok_or_else(|| Unknown::Contract(contract.to_owned()))?;
    contract
        .functions
        .iter()
        .find(|known| known.name == function)
        .ok_or_else(|| Unknown::Function {
            contract,
            name: function.to_owned(),
        })
}

fn contract_names() -> String {
    join(ALL.iter().map(|contract| contract.name))
}

fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

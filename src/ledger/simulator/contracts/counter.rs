//! `counter`: named whole numbers of 128 bits with sign. One that was never set counts from 0.

use super::{Args, Contract, ContractError, Function, Returned, Stub, not_empty, refuse};
use crate::kv::KvError;

pub(super) static CONTRACT: Contract = Contract {
    name: "counter",
    functions: &[
        Function::new("Set", set),
        Function::new("Add", add),
        Function::new("Get", get),
    ],
};

/// Reads nothing, so two of them never conflict: the later one in the block wins.
fn set(stub: &mut Stub<'_>, args: Args<'_>) -> Returned {
    let [name, value] = args.expect(["name", "value"])?;
    let value = parse("value", value)?;
    stub.put(not_empty("name", name)?, value.to_string())?;
    Ok(None)
}

/// Returns the new value. Its event `Added` carries the counter's name.
fn add(stub: &mut Stub<'_>, args: Args<'_>) -> Returned {
    let [name, delta] = args.expect(["name", "delta"])?;
    let delta = parse("delta", delta)?;
    let value = current(stub, name)?;
    let Some(new) = value.checked_add(delta) else {
        return refuse(format!("overflow: {name} is {value}, {delta} cannot be added"));
    };
    stub.put(name, new.to_string())?;
    stub.tell("Added", name);
    Ok(Some(new.to_string()))
}

fn get(stub: &mut Stub<'_>, args: Args<'_>) -> Returned {
    let [name] = args.expect(["name"])?;
    Ok(Some(current(stub, name)?.to_string()))
}

fn current(stub: &mut Stub<'_>, name: &str) -> Result<i128, ContractError> {
    match stub.get(not_empty("name", name)?)? {
        None => Ok(0),
        Some(text) => text
            .parse()
            .map_err(|_| KvError::Damaged(format!("the stored counter {name} is not a number")).into()),
    }
}

fn parse(name: &str, text: &str) -> Result<i128, ContractError> {
    text.parse()
        .or_else(|_| refuse(format!("{name} must be a whole number of 128 bits, got {text:?}")))
}

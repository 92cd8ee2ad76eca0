//! `token`: balances of accounts. Amounts are whole, never negative, and fit 128 bits.
//!
//! Invariant: transfers conserve the sum of all balances. There is no total supply key: every mint would
//! conflict with every other one. A change sets the event `Transfer`, which carries `{"from", "to", "amount"}` as
//! JSON; `from` is empty if it was minted.

use super::{Args, Contract, ContractError, Function, Returned, Stub, not_empty, refuse};
use crate::kv::KvError;

pub(super) static CONTRACT: Contract = Contract {
    name: "token",
    functions: &[
        Function::new("Mint", mint),
        Function::new("Transfer", transfer),
        Function::new("BalanceOf", balance_of),
    ],
};

/// Returns the new balance.
fn mint(stub: &mut Stub<'_>, args: Args<'_>) -> Returned {
    let [account, amount] = args.expect(["account", "amount"])?;
    let amount = parse_amount(amount)?;
    let new = credit(account, balance(stub, account)?, amount)?;
    stub.put(account, new.to_string())?;
    tell(stub, "", account, amount);
    Ok(Some(new.to_string()))
}

fn transfer(stub: &mut Stub<'_>, args: Args<'_>) -> Returned {
    let [from, to, amount] = args.expect(["from", "to", "amount"])?;
    let amount = parse_amount(amount)?;
    let held = balance(stub, from)?;
    tell(stub, from, to, amount);
    let Some(left) = held.checked_sub(amount) else {
        return refuse(format!(
            "insufficient funds: {from} holds {held}, {amount} are needed"
        ));
    };
    if from == to {
        // A transaction does not see its own writes: taking off and adding on by themselves would leave
        // the account with `amount` too much.
        stub.put(from, held.to_string())?;
        return Ok(None);
    }
    let new = credit(to, balance(stub, to)?, amount)?;
    stub.put(from, left.to_string())?;
    stub.put(to, new.to_string())?;
    Ok(None)
}

fn tell(stub: &mut Stub<'_>, from: &str, to: &str, amount: u128) {
    let event = serde_json::json!({"from": from, "to": to, "amount": amount.to_string()});
    stub.tell("Transfer", event.to_string());
}

fn balance_of(stub: &mut Stub<'_>, args: Args<'_>) -> Returned {
    let [account] = args.expect(["account"])?;
    Ok(Some(balance(stub, account)?.to_string()))
}

/// What `account` holds; nothing if nobody ever paid into it.
fn balance(stub: &mut Stub<'_>, account: &str) -> Result<u128, ContractError> {
    match stub.get(not_empty("account", account)?)? {
        None => Ok(0),
        Some(text) => text
            .parse()
            .map_err(|_| KvError::Damaged(format!("the stored balance of {account} is not a number")).into()),
    }
}

fn credit(account: &str, balance: u128, amount: u128) -> Result<u128, ContractError> {
    match balance.checked_add(amount) {
        Some(new) => Ok(new),
        None => refuse(format!("overflow: {account} cannot hold more than {}", u128::MAX)),
    }
}

fn parse_amount(text: &str) -> Result<u128, ContractError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(amount) if digits => Ok(amount),
        _ => refuse(format!(
            "amount must be a whole number from 0 to {}, got {text:?}",
            u128::MAX
        )),
    }
}

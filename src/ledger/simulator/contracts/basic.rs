//! `basic`: assets with an owner, callable like Fabric's asset-transfer-basic sample.
//!
//! What changes an asset sets an event of the function's name; it carries the asset as it was written, or as it was
//! when it was deleted.

use serde::{Deserialize, Serialize};

use super::{Args, Contract, ContractError, Function, Returned, Stub, not_empty, refuse};
use crate::kv::KvError;

pub(super) static CONTRACT: Contract = Contract {
    name: "basic",
    functions: &[
        Function::new("CreateAsset", create),
        Function::new("ReadAsset", read),
        Function::new("UpdateAsset", update),
        Function::new("DeleteAsset", delete),
        Function::new("TransferAsset", transfer),
        Function::scanning("GetAllAssets", all),
    ],
};

/// An asset as it is stored and shown; field names as in the sample.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Asset {
    #[serde(rename = "ID")]
    id: String,
    color: String,
    size: i64,
    owner: String,
    appraised_value: i64,
}

impl Asset {
    fn from_args(args: Args<'_>) -> Result<Self, ContractError> {
        let [id, color, size, owner, value] =
            args.expect(["id", "color", "size", "owner", "appraisedValue"])?;
        Ok(Self {
            id: not_empty("id", id)?.to_owned(),
            color: color.to_owned(),
            size: whole("size", size)?,
            owner: owner.to_owned(),
            appraised_value: whole("appraisedValue", value)?,
        })
    }

    fn parse(json: &str) -> Result<Self, ContractError> {
        serde_json::from_str(json)
            .map_err(|error| KvError::Damaged(format!("a stored asset cannot be read: {error}")).into())
    }

    fn store(&self, stub: &mut Stub<'_>, event: &str) -> Result<(), ContractError> {
        match serde_json::to_string(self) {
            Ok(json) => {
                stub.tell(event, json.as_bytes());
                stub.put(&self.id, json)
            }
            Err(error) => refuse(format!("the asset {} cannot be stored: {error}", self.id)),
        }
    }
}

fn create(stub: &mut Stub<'_>, args: Args<'_>) -> Returned {
    let asset = Asset::from_args(args)?;
    if stub.get(&asset.id)?.is_some() {
        return refuse(format!("the asset {} already exists", asset.id));
    }
    asset.store(stub, "CreateAsset")?;
    Ok(None)
}

fn read(stub: &mut Stub<'_>, args: Args<'_>) -> Returned {
    let [id] = args.expect(["id"])?;
    existing(stub, id).map(Some)
}

fn update(stub: &mut Stub<'_>, args: Args<'_>) -> Returned {
    let asset = Asset::from_args(args)?;
    existing(stub, &asset.id)?;
    asset.store(stub, "UpdateAsset")?;
    Ok(None)
}

fn delete(stub: &mut Stub<'_>, args: Args<'_>) -> Returned {
    let [id] = args.expect(["id"])?;
    let asset = existing(stub, id)?;
    stub.tell("DeleteAsset", asset);
    stub.delete(id)?;
    Ok(None)
}

/// Returns the old owner.
fn transfer(stub: &mut Stub<'_>, args: Args<'_>) -> Returned {
    let [id, new_owner] = args.expect(["id", "newOwner"])?;
    let mut asset = Asset::parse(&existing(stub, id)?)?;
    let old_owner = std::mem::replace(&mut asset.owner, new_owner.to_owned());
    asset.store(stub, "TransferAsset")?;
    Ok(Some(old_owner))
}

fn all(stub: &mut Stub<'_>, args: Args<'_>) -> Returned {
    let [] = args.expect([])?;
    let assets: Vec<String> = stub.range("", "")?.into_iter().map(|(_, json)| json).collect();
    Ok(Some(format!("[{}]", assets.join(","))))
}

fn existing(stub: &mut Stub<'_>, id: &str) -> Result<String, ContractError> {
    match stub.get(not_empty("id", id)?)? {
        Some(json) => Ok(json),
        None => refuse(format!("the asset {id} does not exist")),
    }
}

fn whole(name: &str, text: &str) -> Result<i64, ContractError> {
    text.parse()
        .or_else(|_| refuse(format!("{name} must be a whole number of 64 bits, got {text:?}")))
}

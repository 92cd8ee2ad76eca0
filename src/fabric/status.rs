//! The details of a gRPC error: what each peer or orderer said by itself.

use prost::Message;
use prost_types::Any;
use tonic::Status;

use super::proto::gateway::ErrorDetail;
use super::proto::google::rpc;

/// The name of [`ErrorDetail`] in an `Any`.
const ERROR_DETAIL: &str = "type.googleapis.com/gateway.ErrorDetail";

/// What peers and orderers said, in the order in which the gateway peer lists them. What cannot be read is left out.
pub(crate) fn details(status: &Status) -> Vec<ErrorDetail> {
    let Ok(decoded) = rpc::Status::decode(status.details()) else {
        return Vec::new();
    };
    let known = decoded
        .details
        .iter()
        .filter(|any| any.type_url.ends_with("/gateway.ErrorDetail"));
    known
        .filter_map(|any| ErrorDetail::decode(any.value.as_slice()).ok())
        .collect()
}

/// An error that carries `details`, as a peer sends it.
pub(crate) fn with_details(code: tonic::Code, message: &str, details: &[ErrorDetail]) -> Status {
    let status = rpc::Status {
        code: code as i32,
        message: message.to_owned(),
        details: details
            .iter()
            .map(|detail| Any {
                type_url: ERROR_DETAIL.to_owned(),
                value: detail.encode_to_vec(),
            })
            .collect(),
    };
    Status::with_details(code, message, status.encode_to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_come_back_and_nonsense_is_left_out() {
        let detail = ErrorDetail {
            address: "peer0:7051".into(),
            msp_id: "Org1MSP".into(),
            message: "chaincode response 500, no".into(),
        };
        let status = with_details(
            tonic::Code::Aborted,
            "failed to endorse",
            std::slice::from_ref(&detail),
        );
        assert_eq!(details(&status), [detail]);
        assert_eq!(details(&Status::aborted("no details")), []);
        let garbage = Status::with_details(tonic::Code::Aborted, "", vec![0xff; 9].into());
        assert_eq!(details(&garbage), []);
    }
}

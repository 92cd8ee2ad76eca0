//! What an ordering node looks at before it takes an envelope: its channel, its size, and who signed it. Everything
//! else is found by the committing peers.

use prost::Message;
use tonic::Status;

use super::Devnet;
use super::membership::Role;
use super::proposal::{decode, unsatisfied};
use crate::fabric::proto::common::{ChannelHeader, Envelope, HeaderType, Payload, SignatureHeader};

/// Largest envelope, in bytes.
const ABSOLUTE_MAX_BYTES: usize = 10 * 1024 * 1024;

/// Admits an envelope of `size` bytes and answers the transaction id in its header.
///
/// # Errors
/// The refusal as the Gateway service passes it on.
pub(super) fn admit(devnet: &Devnet, envelope: &Envelope, size: usize) -> Result<String, Status> {
    let refuse = |status: &str, info: &str| {
        Status::aborted(format!(
            "received unsuccessful response from orderer: status={status}, info={info}"
        ))
    };
    let bad = |info: &str| refuse("BAD_REQUEST", info);
    let no_channel = |words: &str| bad(&format!("could not determine channel ID: {words}"));
    let payload: Payload = decode("Payload", &envelope.payload).map_err(|words| no_channel(&words))?;
    let header = payload.header.ok_or_else(|| no_channel("header not set"))?;
    let channel: ChannelHeader =
        decode("ChannelHeader", &header.channel_header).map_err(|words| no_channel(&words))?;
    if channel.r#type == HeaderType::Config as i32 {
        return Err(bad("message is of type that cannot be processed directly"));
    }
    if channel.channel_id != devnet.channel {
        return Err(bad("channel does not exist"));
    }
    if size > ABSOLUTE_MAX_BYTES {
        return Err(bad(&format!(
            "message payload is {size} bytes and exceeds maximum allowed {ABSOLUTE_MAX_BYTES} bytes"
        )));
    }
    let creator = SignatureHeader::decode(header.signature_header.as_slice()).unwrap_or_default();
    let member = devnet.members.identify(&creator.creator);
    if member
        .as_ref()
        .is_some_and(|member| member.expired(devnet.clock.now()))
    {
        return Err(bad("broadcast client identity expired"));
    }
    let signed = member.is_some_and(|member| {
        member.role == Role::Client && member.signed(&envelope.payload, &envelope.signature)
    });
    if !signed {
        let info = format!("{}: permission denied", unsatisfied("Writers"));
        return Err(refuse("FORBIDDEN", &info));
    }
    Ok(channel.tx_id)
}

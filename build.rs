//! Generates the Fabric protocol's messages, clients and services from `proto/`. Needs no `protoc`.

use std::error::Error;

const FILES: [&str; 8] = [
    "proto/fabric/common.proto",
    "proto/fabric/gateway.proto",
    "proto/fabric/kvrwset.proto",
    "proto/fabric/msp.proto",
    "proto/fabric/orderer.proto",
    "proto/fabric/peer.proto",
    "proto/fabric/rwset.proto",
    "proto/google_rpc.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

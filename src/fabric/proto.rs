//! What `build.rs` generates from `proto/`.
//!
//! The modules are named after the protocol's packages, because the generated code refers to them so.

#![allow(missing_docs, unreachable_pub, clippy::all)]

pub(crate) mod common {
    tonic::include_proto!("common");
}

pub(crate) mod gateway {
    tonic::include_proto!("gateway");
}

pub(crate) mod google {
    pub(crate) mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

pub(crate) mod kvrwset {
    tonic::include_proto!("kvrwset");
}

pub(crate) mod msp {
    tonic::include_proto!("msp");
}

pub(crate) mod orderer {
    tonic::include_proto!("orderer");
}

pub(crate) mod protos {
    tonic::include_proto!("protos");
}

pub(crate) mod rwset {
    tonic::include_proto!("rwset");
}

//! Hyperledger Fabric's messages, identities and signatures: what both ends of a connection have to agree on.
//!
//! The backend (`ledger::fabric`) is one end, `devnet` the other. Nothing here does I/O or keeps state.

pub(crate) mod block;
pub(crate) mod identity;
pub(crate) mod proto;
pub(crate) mod status;

use sha2::{Digest, Sha256};

/// Bytes of the nonce in a signature header, which has to be new for each transaction and nothing else. Their number is
/// the official clients'.
pub(crate) const NONCE_BYTES: usize = 24;

/// The identifier of a transaction: hex of SHA-256 over the nonce and the creator in its signature header.
///
/// Peers refuse a proposal whose channel header says otherwise.
pub(crate) fn transaction_id(nonce: &[u8], creator: &[u8]) -> String {
    hex(&Sha256::new().chain_update(nonce).chain_update(creator).finalize())
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_id_is_the_hash_of_nonce_and_creator() {
        // SHA-256 of the three bytes "abc" (FIPS 180-2, appendix B.1).
        assert_eq!(
            transaction_id(b"a", b"bc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}

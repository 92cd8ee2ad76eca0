//! Who belongs to the network: what a peer's membership service decides about an identity.
//!
//! Invariant: a [`Member`] has a certificate that the authority of its organisation signed. Whether it is still valid
//! today and what it may do is asked where it matters, because a peer answers each of that in other words.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use p256::ecdsa::VerifyingKey;
use p256::ecdsa::signature::Verifier;
use prost::Message;
use x509_cert::Certificate;
use x509_cert::der::Encode;
use x509_cert::spki::ObjectIdentifier;

use super::authority::{AuthorityError, OrganisationFiles};
use crate::domain::Timestamp;
use crate::fabric::identity::{self, SigningIdentity, parse_certificate, parse_private_key, public_key};
use crate::fabric::proto::msp::SerializedIdentity;

/// Organisational unit (RFC 4519, section 2.20).
const UNIT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.11");
/// ECDSA with SHA-256 (RFC 5758, section 3.2).
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
/// Identities that are remembered; beyond that they are checked again.
const REMEMBERED: usize = 1024;

/// What a certificate says its owner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It may propose and submit.
    Client,
    /// It may endorse.
    Peer,
    /// Neither; no valid member.
    Unknown,
}

/// An identity that an organisation vouches for.
#[derive(Debug)]
pub(super) struct Member {
    /// Its organisation.
    pub(super) msp_id: String,
    /// What it is there.
    pub(super) role: Role,
    key: VerifyingKey,
    not_after: u64,
}

impl Member {
    /// Whether its certificate is no longer valid.
    pub(super) fn expired(&self, now: Timestamp) -> bool {
        now.as_millis() / 1000 > self.not_after
    }

    /// Whether it signed `message`.
    pub(super) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        identity::verify(&self.key, message, signature)
    }
}

/// An organisation, with the peer that endorses for it.
pub(super) struct Organisation {
    /// Its name in identities.
    pub(super) msp_id: String,
    /// Address of its peer, as error details name it.
    pub(super) address: String,
    /// Its peer.
    pub(super) peer: SigningIdentity,
    authority: Certificate,
    authority_key: VerifyingKey,
}

impl Organisation {
    /// The organisation of these files.
    ///
    /// # Errors
    /// [`AuthorityError::Unusable`].
    pub(super) fn new(
        msp_id: &str,
        address: String,
        files: OrganisationFiles,
    ) -> Result<Self, AuthorityError> {
        let unusable = |error: identity::IdentityError| AuthorityError::Unusable {
            path: files.folder.clone(),
            words: error.to_string(),
        };
        let authority = parse_certificate(&files.ca).map_err(unusable)?;
        let authority_key = public_key(&authority).map_err(unusable)?;
        let key = parse_private_key(&files.peer.key, None).map_err(unusable)?;
        let peer = SigningIdentity::new(msp_id, &files.peer.certificate, key).map_err(unusable)?;
        Ok(Self {
            msp_id: msp_id.to_owned(),
            address,
            peer,
            authority,
            authority_key,
        })
    }

    fn vouches_for(&self, certificate: &Certificate) -> bool {
        let signed = certificate.tbs_certificate();
        let (Ok(message), Some(signature)) = (signed.to_der(), certificate.signature().as_bytes()) else {
            return false;
        };
        signed.issuer() == self.authority.tbs_certificate().subject()
            && certificate.signature_algorithm().oid == ECDSA_SHA256
            && p256::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| self.authority_key.verify(&message, &signature).is_ok())
    }
}

/// All organisations of the channel. Remembers whom it has checked.
pub(super) struct Membership {
    /// They, in order; the first one's peer is the gateway.
    pub(super) organisations: Vec<Organisation>,
    known: Mutex<HashMap<Vec<u8>, Arc<Member>>>,
}

impl Membership {
    /// The network of these organisations.
    pub(super) fn new(organisations: Vec<Organisation>) -> Self {
        Self {
            organisations,
            known: Mutex::default(),
        }
    }

    /// The member that `creator`, a serialised identity, stands for. `None` if it is malformed, of an organisation
    /// that is not known, or not certified by it.
    pub(super) fn identify(&self, creator: &[u8]) -> Option<Arc<Member>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(member) = known.get(creator) {
            return Some(Arc::clone(member));
        }
        let member = Arc::new(self.check(creator)?);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(creator.to_vec(), Arc::clone(&member));
        Some(member)
    }

    fn check(&self, creator: &[u8]) -> Option<Member> {
        let identity = SerializedIdentity::decode(creator).ok()?;
        let organisation = self.organisation(&identity.mspid)?;
        let certificate = parse_certificate(std::str::from_utf8(&identity.id_bytes).ok()?).ok()?;
        if !organisation.vouches_for(&certificate) {
            return None;
        }
        let fields = certificate.tbs_certificate();
        let units: Vec<&[u8]> = fields
            .subject()
            .iter()
            .filter(|attribute| attribute.oid == UNIT)
            .map(|attribute| attribute.value.value())
            .collect();
        let role = if units.contains(&&b"client"[..]) || units.contains(&&b"admin"[..]) {
            Role::Client
        } else if units.contains(&&b"peer"[..]) {
            Role::Peer
        } else {
            Role::Unknown
        };
        Some(Member {
            msp_id: identity.mspid,
            role,
            key: public_key(&certificate).ok()?,
            not_after: fields.validity().not_after.to_unix_duration().as_secs(),
        })
    }

    /// The organisation of this name.
    pub(super) fn organisation(&self, msp_id: &str) -> Option<&Organisation> {
        self.organisations.iter().find(|known| known.msp_id == msp_id)
    }
}

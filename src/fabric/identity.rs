//! Who signs, and whether a signature is good: ECDSA over P-256 with SHA-256, the only kind that Fabric's own
//! tools make.
//!
//! Invariant: signatures are DER with the lower of the two possible S values. Fabric's peers refuse the other one,
//! so that a signature cannot be changed into a second valid one.

use std::fmt;

use p256::ecdsa::signature::{Signer, Verifier};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::pkcs8::DecodePrivateKey;
use prost::Message;
use thiserror::Error;
use x509_cert::Certificate;
use x509_cert::der::{DecodePem, Encode};
use x509_cert::spki::ObjectIdentifier;

use super::proto::msp::SerializedIdentity;

/// Elliptic curve keys in general (RFC 5480, section 2.1.1).
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// Why something is no identity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum IdentityError {
    /// The certificate cannot be read.
    #[error("the certificate is not a PEM certificate: {0}")]
    Certificate(String),
    /// The certificate's key is of another kind.
    #[error("the certificate's key is {0}; Fabric identities need ECDSA on curve P-256")]
    Algorithm(&'static str),
    /// The private key cannot be read.
    #[error("the private key cannot be read: {0}")]
    Key(String),
    /// The two belong to different identities.
    #[error("the private key is not the one of the certificate")]
    Mismatch,
}

/// A member of an organisation that can sign. Does not show its key.
pub(crate) struct SigningIdentity {
    creator: Vec<u8>,
    key: SigningKey,
}

impl fmt::Debug for SigningIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningIdentity").finish_non_exhaustive()
    }
}

impl SigningIdentity {
    /// The identity of `certificate` (PEM) in the organisation `msp_id`, with its private key.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub(crate) fn new(msp_id: &str, certificate: &str, key: SigningKey) -> Result<Self, IdentityError> {
        if public_key(&parse_certificate(certificate)?)? != *key.verifying_key() {
            return Err(IdentityError::Mismatch);
        }
        let creator = SerializedIdentity {
            mspid: msp_id.to_owned(),
            id_bytes: certificate.as_bytes().to_vec(),
        };
        Ok(Self {
            creator: creator.encode_to_vec(),
            key,
        })
    }

    /// The identity as it stands in a signature header: a [`SerializedIdentity`].
    pub(crate) fn creator(&self) -> &[u8] {
        &self.creator
    }

    /// Signs a message: DER, with the lower S.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature: Signature = self.key.sign(message);
        signature.normalize_s().to_der().as_bytes().to_vec()
    }
}

/// Reads the first certificate of a PEM text.
///
/// # Errors
/// [`IdentityError::Certificate`].
pub(crate) fn parse_certificate(pem: &str) -> Result<Certificate, IdentityError> {
    Certificate::from_pem(pem).map_err(|error| IdentityError::Certificate(error.to_string()))
}

/// The P-256 key that a certificate is for.
///
/// # Errors
/// [`IdentityError::Algorithm`] if it is for another kind of key, [`IdentityError::Certificate`] if the key is broken.
pub(crate) fn public_key(certificate: &Certificate) -> Result<VerifyingKey, IdentityError> {
    let info = certificate.tbs_certificate().subject_public_key_info();
    let kind = info.algorithm.oid;
    if kind != EC_PUBLIC_KEY {
        return Err(IdentityError::Algorithm(
            if kind.to_string().starts_with("1.2.840.113549.1.1") {
                "an RSA key"
            } else {
                "not an elliptic curve key"
            },
        ));
    }
    let der = info
        .to_der()
        .map_err(|error| IdentityError::Certificate(error.to_string()))?;
    p256::pkcs8::DecodePublicKey::from_public_key_der(&der)
        .map_err(|_| IdentityError::Algorithm("on another curve"))
}

/// Reads a private key: PKCS#8 (`PRIVATE KEY`) or SEC1 (`EC PRIVATE KEY`); PKCS#8 with a passphrase
/// (`ENCRYPTED PRIVATE KEY`) if one is given. The words of an error never hold a part of the key.
///
/// # Errors
/// [`IdentityError::Key`].
pub(crate) fn parse_private_key(pem: &str, passphrase: Option<&str>) -> Result<SigningKey, IdentityError> {
    let refuse = |words: &str| Err(IdentityError::Key(words.to_owned()));
    let secret = if pem.contains("BEGIN ENCRYPTED PRIVATE KEY") {
        let Some(passphrase) = passphrase else {
            return refuse("it is encrypted and there is no passphrase for it");
        };
        p256::SecretKey::from_pkcs8_encrypted_pem(pem, passphrase).map_err(|_| {
            IdentityError::Key(
                "the passphrase is wrong, or it is not a P-256 key in encrypted PKCS#8".to_owned(),
            )
        })
    } else if pem.contains("BEGIN PRIVATE KEY") {
        p256::SecretKey::from_pkcs8_pem(pem).map_err(|_| not_p256())
    } else if pem.contains("BEGIN EC PRIVATE KEY") {
        p256::SecretKey::from_sec1_pem(pem).map_err(|_| not_p256())
    } else if pem.contains("BEGIN RSA PRIVATE KEY") {
        return refuse("it is an RSA key; Fabric identities need ECDSA on curve P-256");
    } else {
        return refuse("it is not PEM; it has to begin with -----BEGIN PRIVATE KEY-----");
    }?;
    Ok(SigningKey::from(secret))
}

fn not_p256() -> IdentityError {
    IdentityError::Key(
        "it is not an ECDSA key on curve P-256, the only kind that Fabric identities may have".to_owned(),
    )
}

/// Whether `signature` (DER, with the lower S) over `message` is by the owner of `key`.
pub(crate) fn verify(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
    Signature::from_der(signature).is_ok_and(|signature| {
        signature.normalize_s() == signature && key.verify(message, &signature).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use p256::pkcs8::EncodePrivateKey;

    use super::*;

    const KINDS: [(&rcgen::SignatureAlgorithm, &str); 2] = [
        (&rcgen::PKCS_ECDSA_P384_SHA384, "on another curve"),
        (&rcgen::PKCS_ED25519, "not an elliptic curve key"),
    ];

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
        let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
        let params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        (
            params.self_signed(&key).expect("a certificate").pem(),
            key.serialize_pem(),
        )
    }

    #[test]
    fn what_an_identity_signs_is_verified_and_nothing_else() {
        let (pem, key) = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        let identity = SigningIdentity::new("Org1MSP", &pem, parse_private_key(&key, None).expect("a key"))
            .expect("an identity");
        let public = public_key(&parse_certificate(&pem).expect("a certificate")).expect("P-256");
        for n in 0_u8..64 {
            let signature = identity.sign(&[n]);
            assert!(verify(&public, &[n], &signature));
            assert!(!verify(&public, &[n + 1], &signature));
            let low = Signature::from_der(&signature).expect("DER");
            let high = Signature::from_scalars(low.r(), -low.s()).expect("a signature");
            assert!(!verify(&public, &[n], high.to_der().as_bytes()), "the higher S");
        }
    }

    #[test]
    fn other_keys_are_named_for_what_they_are() {
        for (algorithm, words) in KINDS {
            let (pem, key) = certificate(algorithm);
            let parsed = parse_certificate(&pem).expect("a certificate");
            assert_eq!(public_key(&parsed), Err(IdentityError::Algorithm(words)));
            let error = parse_private_key(&key, None).expect_err("no P-256 key");
            assert!(error.to_string().contains("P-256"), "{error}");
        }
        let (one, _) = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        let (_, other) = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        let other = parse_private_key(&other, None).expect("a key");
        assert_eq!(
            SigningIdentity::new("Org1MSP", &one, other).expect_err("no pair"),
            IdentityError::Mismatch
        );
        assert!(parse_certificate("nonsense").is_err());
    }

    #[test]
    fn a_key_may_be_encrypted_or_in_the_older_format() {
        let (_, pem) = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        let key = parse_private_key(&pem, None).expect("a key");
        let secret = p256::SecretKey::from_pkcs8_pem(&pem).expect("a key");
        let older = secret.to_sec1_pem(p256::pkcs8::LineEnding::LF).expect("PEM");
        assert_eq!(parse_private_key(&older, None).expect("a key"), key);
        let locked = secret
            .to_pkcs8_encrypted_pem("open sesame", p256::pkcs8::LineEnding::LF)
            .expect("PEM");
        assert_eq!(
            parse_private_key(&locked, Some("open sesame")).expect("a key"),
            key
        );
        for passphrase in [None, Some("wrong")] {
            let error = parse_private_key(&locked, passphrase).expect_err("locked");
            assert!(error.to_string().contains("passphrase"), "{error}");
        }
    }
}

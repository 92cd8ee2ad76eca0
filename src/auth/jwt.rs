//! JSON Web Tokens, checked against a set of public keys (RFC 7519, 7517, 8725). Pure: keys and time come in as arguments.
//!
//! Invariant: a token counts only if one of the set's *public* keys signed it, with an algorithm that belongs to that key, for
//! our audience, by our issuer. `none` and the symmetric algorithms are never accepted, whatever the set holds.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::config::JwtSettings;
use crate::domain::{TenantName, Timestamp};
use crate::gateway::{Scope, Scopes};

/// Clocks may differ by so many seconds.
const LEEWAY: f64 = 30.0;
/// More than any token needs; less than what would be a burden to read.
const LONGEST: usize = 16 << 10;
/// Longest `sub`, in bytes: it goes into records and logs.
const LONGEST_SUBJECT: usize = 200;
/// The tenant of an operator of the whole gateway.
const ALL_TENANTS: &str = "*";

/// Why a token does not count. The text is for whoever sent it.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum TokenError {
    #[error("the token is neither an API key of this gateway nor a JSON Web Token")]
    NoToken,
    #[error("its algorithm is not one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA")]
    Algorithm,
    #[error("it has critical headers (crit), which this gateway does not know")]
    Critical,
    /// It may be known after the set was fetched again.
    #[error("it is signed by a key that is not among those that this gateway trusts")]
    UnknownKey,
    #[error("it names no key (kid), and several could have signed it")]
    NoKeyNamed,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired, at {0}")]
    Expired(String),
    #[error("it is not valid before {0}")]
    NotYet(String),
    #[error("it is not from the issuer that this gateway trusts")]
    Issuer,
    #[error("it is not for this gateway (audience)")]
    Audience,
    #[error("its claim {0} is missing or not of the right form")]
    Claim(String),
}

/// A key that may have signed a token.
struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// The public keys of an issuer.
#[derive(Default)]
pub(super) struct KeySet(Vec<Key>);

impl KeySet {
    /// Reads a JWKS document. Keys that are not for signatures, or not public, are left out.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(json: &[u8]) -> Result<Self, String> {
        let set: JwkSet =
            serde_json::from_slice(json).map_err(|error| format!("is no JWKS document: {error}"))?;
        let keys: Vec<_> = set.keys.iter().filter_map(usable).collect();
        if keys.is_empty() {
            return Err(format!(
                "holds {} keys, and none of them is a public key for signatures (RSA, EC P-256 or P-384, Ed25519)",
                set.keys.len()
            ));
        }
        Ok(Self(keys))
    }

    /// The one key that can have signed with `algorithm`.
    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Key, TokenError> {
        let named = |key: &&Key| kid.is_none_or(|kid| key.kid.as_deref() == Some(kid));
        let mut fitting = self
            .0
            .iter()
            .filter(named)
            .filter(|key| key.algorithms.contains(&algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            (None, _) => Err(TokenError::UnknownKey),
            (Some(_), Some(_)) => Err(TokenError::NoKeyNamed),
        }
    }
}

fn usable(jwk: &Jwk) -> Option<Key> {
    use Algorithm as A;
    let for_signatures = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let operations = jwk.common.key_operations.as_ref();
    let verifies = operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    if !for_signatures || !verifies {
        return None;
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![A::RS256, A::RS384, A::RS512, A::PS256, A::PS384, A::PS512],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![A::ES256],
            EllipticCurve::P384 => vec![A::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => vec![A::EdDSA],
        _ => return None,
    };
    if let Some(algorithm) = jwk.common.key_algorithm {
        algorithms.retain(|fitting| algorithm.to_string() == format!("{fitting:?}"));
    }
    Some(Key {
        kid: jwk.common.key_id.clone(),
        algorithms,
        key: DecodingKey::from_jwk(jwk).ok()?,
    })
}

/// What a token says of who sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) subject: String,
    pub(super) tenant: Option<TenantName>,
    pub(super) scopes: Scopes,
    pub(super) expires_at: Timestamp,
}

/// Checks `token`.
///
/// # Errors
/// [`TokenError`].
pub(super) fn verify(
    token: &str,
    keys: &KeySet,
    settings: &JwtSettings,
    now: Timestamp,
) -> Result<Claims, TokenError> {
    if token.len() > LONGEST || token.split('.').count() != 3 {
        return Err(TokenError::NoToken);
    }
    let header = decode_header(token).map_err(|error| match error.kind() {
        // An `alg` that the library does not know, `none` among them, is the only thing it fails to read in good JSON.
        ErrorKind::Json(json) if json.is_data() => TokenError::Algorithm,
        _ => TokenError::NoToken,
    })?;
    if matches!(header.alg, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
        return Err(TokenError::Algorithm);
    }
    if header.crit.is_some() {
        return Err(TokenError::Critical);
    }
    let key = keys.find(header.kid.as_deref(), header.alg)?;
    let mut validation = Validation::new(header.alg);
    validation.set_issuer(&[&settings.issuer]);
    validation.set_audience(&[&settings.audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    // By our own clock, below.
    validation.validate_exp = false;
    let claims: Map<String, Value> = decode(token, &key.key, &validation)
        .map_err(|error| match error.kind() {
            ErrorKind::InvalidIssuer => TokenError::Issuer,
            ErrorKind::InvalidAudience => TokenError::Audience,
            ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
                TokenError::Claim(claim.clone())
            }
            ErrorKind::Json(_) => TokenError::NoToken,
            _ => TokenError::Signature,
        })?
        .claims;
    Claims::read(&claims, settings, now)
}

impl Claims {
    fn read(claims: &Map<String, Value>, settings: &JwtSettings, now: Timestamp) -> Result<Self, TokenError> {
        let wrong = |claim: &str| TokenError::Claim(claim.to_owned());
        let now = now.as_millis() as f64 / 1000.0;
        let expires = claims
            .get("exp")
            .and_then(Value::as_f64)
            .ok_or_else(|| wrong("exp"))?;
        let moment = |seconds: f64| Timestamp::from_millis((seconds * 1000.0) as u64);
        if expires + LEEWAY <= now {
            return Err(TokenError::Expired(moment(expires).to_string()));
        }
        if let Some(begins) = claims.get("nbf") {
            let begins = begins.as_f64().ok_or_else(|| wrong("nbf"))?;
            if begins - LEEWAY > now {
                return Err(TokenError::NotYet(moment(begins).to_string()));
            }
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        let fits = (1..=LONGEST_SUBJECT).contains(&subject.len()) && !subject.contains(char::is_control);
        if !fits {
            return Err(wrong("sub"));
        }
        Ok(Self {
            subject: subject.to_owned(),
            tenant: tenant(claims.get(&settings.tenant_claim))
                .ok_or_else(|| wrong(&settings.tenant_claim))?,
            scopes: scopes(claims.get(&settings.scope_claim)),
            expires_at: moment(expires + LEEWAY),
        })
    }
}

/// A token that names no tenant is for the tenant `default`: what was forgotten must not open every door.
fn tenant(claim: Option<&Value>) -> Option<Option<TenantName>> {
    match claim {
        None => Some(Some(TenantName::default())),
        Some(Value::String(name)) if name == ALL_TENANTS => Some(None),
        Some(Value::String(name)) => TenantName::new(name).map(Some),
        Some(_) => None,
    }
}

/// Words in a text or in a list; those that mean something to other services are passed over.
fn scopes(claim: Option<&Value>) -> Scopes {
    let words: Vec<&str> = match claim {
        Some(Value::String(words)) => words.split_whitespace().collect(),
        Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    words.into_iter().filter_map(Scope::parse).collect()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const EXP: u64 = 1_800_000_600;

    /// Somebody who signs tokens.
    struct Signer {
        key: EncodingKey,
        algorithm: Algorithm,
        jwk: Value,
    }

    impl Signer {
        fn new(algorithm: Algorithm, kid: &str) -> Self {
            let generate = |kind| KeyPair::generate_for(kind).expect("key");
            let pair = match algorithm {
                Algorithm::ES256 => generate(&PKCS_ECDSA_P256_SHA256),
                Algorithm::ES384 => generate(&PKCS_ECDSA_P384_SHA384),
                Algorithm::EdDSA => generate(&PKCS_ED25519),
                _ => generate(&PKCS_RSA_SHA256),
            };
            let pkcs8 = pair.serialize_der();
            let key = match algorithm {
                Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_der(&pkcs8),
                Algorithm::EdDSA => EncodingKey::from_ed_der(&pkcs8),
                _ => {
                    let info = pkcs8::PrivateKeyInfoRef::try_from(&*pkcs8).expect("PKCS #8");
                    EncodingKey::from_rsa_der(info.private_key.as_bytes())
                }
            };
            let mut jwk = match algorithm {
                Algorithm::EdDSA => {
                    let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
                    json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x})
                }
                _ => {
                    let jwk = Jwk::from_encoding_key(&key, algorithm).expect("JWK");
                    serde_json::to_value(jwk).expect("JSON")
                }
            };
            jwk["kid"] = kid.into();
            Self { key, algorithm, jwk }
        }

        fn header(&self) -> Header {
            let mut header = Header::new(self.algorithm);
            header.kid = self.jwk["kid"].as_str().map(str::to_owned);
            header
        }

        fn sign(&self, claims: &Value) -> String {
            encode(&self.header(), claims, &self.key).expect("signs")
        }
    }

    fn set(jwks: &[&Value]) -> KeySet {
        KeySet::read(json!({"keys": jwks}).to_string().as_bytes()).expect("usable")
    }

    fn settings() -> JwtSettings {
        JwtSettings::for_tests()
    }

    fn claims() -> Value {
        json!({"iss": "https://issuer", "aud": "gate", "sub": "erp", "exp": EXP, "tenant": "acme",
               "scope": "openid submit read"})
    }

    fn check(token: &str, keys: &KeySet) -> Result<Claims, TokenError> {
        verify(token, keys, &settings(), NOW)
    }

    #[test]
    fn every_algorithm_is_verified() {
        for algorithm in [
            Algorithm::RS256,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::ES256,
            Algorithm::ES384,
            Algorithm::EdDSA,
        ] {
            let signer = Signer::new(algorithm, "k1");
            let token = signer.sign(&claims());
            let read = check(&token, &set(&[&signer.jwk])).expect("is valid");
            assert_eq!(read.subject, "erp");
            assert_eq!(read.tenant, TenantName::new("acme"));
            assert_eq!(read.scopes, [Scope::Submit, Scope::Read].into_iter().collect());
            // Another key of the same name did not sign it.
            let other = Signer::new(algorithm, "k1");
            assert_eq!(check(&token, &set(&[&other.jwk])), Err(TokenError::Signature));
        }
    }

    #[test]
    fn claims_that_are_not_for_us_are_refused() {
        let signer = Signer::new(Algorithm::ES256, "k1");
        let keys = set(&[&signer.jwk]);
        let claim = |name: &str| TokenError::Claim(name.to_owned());
        let cases = [
            ("iss", json!("https://other"), TokenError::Issuer),
            ("iss", Value::Null, claim("iss")),
            ("aud", json!("other"), TokenError::Audience),
            ("aud", json!(["other", "more"]), TokenError::Audience),
            ("aud", Value::Null, claim("aud")),
            (
                "exp",
                json!(1_799_999_969),
                TokenError::Expired("2027-01-15T07:59:29.000Z".to_owned()),
            ),
            ("exp", json!("tomorrow"), claim("exp")),
            ("exp", Value::Null, claim("exp")),
            (
                "nbf",
                json!(1_800_000_031),
                TokenError::NotYet("2027-01-15T08:00:31.000Z".to_owned()),
            ),
            ("sub", Value::Null, claim("sub")),
            ("sub", json!(""), claim("sub")),
            ("sub", json!("a\nb"), claim("sub")),
            ("sub", json!("x".repeat(201)), claim("sub")),
            ("tenant", json!("ACME"), claim("tenant")),
            ("tenant", json!(["acme"]), claim("tenant")),
        ];
        for (name, value, expected) in cases {
            let mut claims = claims();
            match value {
                Value::Null => drop(claims.as_object_mut().expect("object").remove(name)),
                value => claims[name] = value,
            }
            assert_eq!(check(&signer.sign(&claims), &keys), Err(expected), "{claims}");
        }
    }

    #[test]
    fn clocks_may_differ_a_little() {
        let signer = Signer::new(Algorithm::ES256, "k1");
        let keys = set(&[&signer.jwk]);
        for (name, value) in [("exp", 1_799_999_971), ("nbf", 1_800_000_029)] {
            let mut claims = claims();
            claims[name] = value.into();
            assert!(check(&signer.sign(&claims), &keys).is_ok(), "{claims}");
        }
    }

    #[test]
    fn who_may_what_is_in_the_claims() {
        let signer = Signer::new(Algorithm::ES256, "k1");
        let keys = set(&[&signer.jwk]);
        let read = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            check(&signer.sign(&claims), &keys).expect("is valid")
        };
        assert_eq!(read("tenant", "*".into()).tenant, None);
        assert_eq!(
            read("scope", json!(["operate", 7, "other"])).scopes,
            [Scope::Operate].into_iter().collect()
        );
        assert_eq!(read("scope", json!("Submit")).scopes, Scopes::default());
        let mut claims = claims();
        let object = claims.as_object_mut().expect("object");
        object.remove("tenant");
        object.remove("scope");
        let read = check(&signer.sign(&claims), &keys).expect("is valid");
        assert_eq!(
            (read.tenant, read.scopes),
            (Some(TenantName::default()), Scopes::default())
        );
    }

    #[test]
    fn a_public_key_is_no_shared_secret() {
        let signer = Signer::new(Algorithm::RS256, "k1");
        let keys = set(&[&signer.jwk]);
        // Signed with the public key as if it were a secret: what everybody knows proves nothing.
        let public = serde_json::to_vec(&signer.jwk).expect("JSON");
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("k1".to_owned());
        let token = encode(&header, &claims(), &EncodingKey::from_secret(&public)).expect("signs");
        assert_eq!(check(&token, &keys), Err(TokenError::Algorithm));
        // Nor does a secret in the set make it one, for then whoever can read the set can sign.
        let jwk = json!({"kty": "oct", "kid": "k1", "k": "c2VjcmV0"});
        let with_secret = set(&[&jwk, &signer.jwk]);
        assert_eq!(check(&token, &with_secret), Err(TokenError::Algorithm));
        assert!(KeySet::read(json!({"keys": [jwk]}).to_string().as_bytes()).is_err());
    }

    #[test]
    fn malformed_tokens_are_told_apart_from_forged_ones() {
        let signer = Signer::new(Algorithm::ES256, "k1");
        let keys = set(&[&signer.jwk]);
        let token = signer.sign(&claims());
        let parts: Vec<_> = token.split('.').collect();
        let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let none = part(json!({"alg": "none", "kid": "k1"}));
        let critical = part(json!({"alg": "ES256", "kid": "k1", "crit": ["b64"], "b64": false}));
        let other_key = part(json!({"alg": "ES256", "kid": "k2"}));
        let other_algorithm = part(json!({"alg": "ES384", "kid": "k1"}));
        let mut admin = claims();
        admin["tenant"] = "*".into();
        let cases = [
            (String::new(), TokenError::NoToken),
            ("a.b".to_owned(), TokenError::NoToken),
            ("a.b.c".to_owned(), TokenError::NoToken),
            ("....".to_owned(), TokenError::NoToken),
            (format!("{}.{}.", parts[0], parts[1]), TokenError::Signature),
            (format!("{none}.{}.", parts[1]), TokenError::Algorithm),
            (
                format!("{critical}.{}.{}", parts[1], parts[2]),
                TokenError::Critical,
            ),
            (
                format!("{other_key}.{}.{}", parts[1], parts[2]),
                TokenError::UnknownKey,
            ),
            (
                format!("{other_algorithm}.{}.{}", parts[1], parts[2]),
                TokenError::UnknownKey,
            ),
            (
                format!("{}.{}.{}", parts[0], part(admin), parts[2]),
                TokenError::Signature,
            ),
            (
                format!("{}.{}.{}", parts[0], "e30", parts[2]),
                TokenError::Signature,
            ),
            (format!("{token}{}", "A".repeat(LONGEST)), TokenError::NoToken),
        ];
        for (token, expected) in cases {
            assert_eq!(check(&token, &keys), Err(expected), "{token:.80}");
        }
        assert!(check(&token, &keys).is_ok());
    }

    #[test]
    fn a_token_without_kid_is_for_the_only_key_that_fits() {
        let [first, second] = ["k1", "k2"].map(|kid| Signer::new(Algorithm::ES256, kid));
        let token = encode(&Header::new(Algorithm::ES256), &claims(), &first.key).expect("signs");
        assert!(check(&token, &set(&[&first.jwk])).is_ok());
        assert_eq!(
            check(&token, &set(&[&first.jwk, &second.jwk])),
            Err(TokenError::NoKeyNamed)
        );
    }

    #[test]
    fn keys_for_something_else_are_left_out() {
        let signer = Signer::new(Algorithm::ES256, "k1");
        for (name, value) in [("use", json!("enc")), ("key_ops", json!(["sign"]))] {
            let mut jwk = signer.jwk.clone();
            jwk[name] = value;
            assert!(
                KeySet::read(json!({"keys": [jwk]}).to_string().as_bytes()).is_err(),
                "{jwk}"
            );
        }
        for (text, expected) in [
            ("", "no JWKS"),
            ("{}", "no JWKS"),
            ("{\"keys\": []}", "holds 0 keys"),
        ] {
            let refusal = KeySet::read(text.as_bytes()).err().expect("is refused");
            assert!(refusal.contains(expected), "{refusal}");
        }
        // One that is of a new kind does not spoil the others.
        let odd = json!({"kty": "XYZ", "kid": "k9", "z": 1});
        assert!(check(&signer.sign(&claims()), &set(&[&odd, &signer.jwk])).is_ok());
    }
}

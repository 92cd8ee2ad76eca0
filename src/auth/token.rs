//! The API key as its owner sees it: `sg_<id>_<secret>`.
//!
//! The identifier is for people and logs, the secret is 256 bits from the operating system. A secret that nobody can guess
//! needs no slow hash: SHA-256 of the whole token is what is kept.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRng;
use rand::rngs::SysRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const PREFIX: &str = "sg_";
const ID: usize = 8;
const SECRET: usize = 43;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// The hash of a token, in hexadecimal digits where it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Whether it is the hash of `token`; takes as long whatever is different.
    pub(super) fn is_of(&self, token: &str) -> bool {
        self.0.ct_eq(&Self::of(token).0).into()
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> Self {
        hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for TokenHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let digits: Option<Vec<u8>> = (text.len() == 64 && text.is_ascii())
            .then(|| {
                let pairs = (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16));
                pairs.collect::<Result<_, _>>().ok()
            })
            .flatten();
        let hash = digits.and_then(|digits| digits.try_into().ok());
        hash.map(Self).ok_or("is no SHA-256 in hexadecimal digits")
    }
}

/// Makes a key: its identifier and the token. Blocks for as long as the operating system takes.
///
/// # Errors
/// The operating system has no random numbers.
pub(super) fn generate() -> Result<(String, String), rand::rngs::SysError> {
    let mut id = String::with_capacity(ID);
    while id.len() < ID {
        let mut bytes = [0; 2 * ID];
        SysRng.try_fill_bytes(&mut bytes)?;
        // The last four values would make the first letters likelier.
        let fair = bytes.iter().filter(|&&byte| byte < 252);
        let letters = fair.map(|byte| char::from(ALPHABET[usize::from(byte % 36)]));
        id.extend(letters.take(ID - id.len()));
    }
    let mut secret = [0; 32];
    SysRng.try_fill_bytes(&mut secret)?;
    let token = format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
    Ok((id, token))
}

/// Whether `text` claims to be an API key, well formed or not.
pub(super) fn looks_like_one(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// The identifier in a well-formed token.
pub(super) fn id_in(token: &str) -> Option<&str> {
    let (id, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
    let is_secret = secret.len() == SECRET && URL_SAFE_NO_PAD.decode(secret).is_ok();
    (is_id(id) && is_secret).then_some(id)
}

/// Whether `text` has the form of an identifier.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == ID && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_known_by_its_hash() {
        let (id, token) = generate().expect("random numbers");
        assert_eq!(id_in(&token), Some(&*id));
        assert_eq!(token.len(), 3 + 8 + 1 + 43);
        let hash = TokenHash::of(&token);
        assert!(hash.is_of(&token));
        assert!(!hash.is_of(&generate().expect("random numbers").1));
        let written = serde_json::to_string(&hash).expect("writes");
        assert!(!written.contains(&token));
        assert_eq!(serde_json::from_str::<TokenHash>(&written).expect("reads"), hash);
    }

    #[test]
    fn what_is_no_token_has_no_identifier() {
        let (_, token) = generate().expect("random numbers");
        let short = &token[..token.len() - 1];
        let long = format!("{token}A");
        for wrong in [
            "",
            "sg_",
            "sg_abc",
            "sg__",
            "sg_ABCDEFGH_",
            short,
            &long,
            &token.to_uppercase(),
            &token[1..],
        ] {
            assert_eq!(id_in(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_hash_is_not_read() {
        for wrong in [
            "\"\"",
            "\"00\"",
            &format!("\"{}\"", "é".repeat(32)),
            &format!("\"{}\"", "x".repeat(64)),
        ] {
            assert!(serde_json::from_str::<TokenHash>(wrong).is_err(), "{wrong}");
        }
    }
}

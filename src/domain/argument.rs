//! One argument of a contract call, kept exactly as the caller wrote it.
//!
//! Ledgers carry money: `0.10` must not become `0.1`, nor a 30-digit integer a float. So an argument is
//! never parsed into a number; its JSON text is kept, only white space between tokens is dropped, which
//! makes two spellings of the same argument equal for the idempotency check.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;
use thiserror::Error;

/// How deep arrays and objects may nest inside one argument.
pub const MAX_DEPTH: usize = 64;

/// Why a JSON text cannot be an argument.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ArgumentError {
    /// Arrays and objects nest deeper than [`MAX_DEPTH`].
    #[error("nests deeper than {MAX_DEPTH} levels; flatten it or pass it as a string")]
    TooDeep,
    /// A string holds one half of a surrogate pair. JSON lets it pass, but it stands for no character, so no
    /// ledger could be told what it says.
    #[error("holds \\u{0:04x}, which is half of a pair and stands for no character")]
    HalfCharacter(u16),
}

/// Compact JSON text of one argument.
#[derive(Debug, Clone)]
pub struct Argument(Box<RawValue>);

impl Argument {
    /// A string argument.
    pub fn text(value: &str) -> Self {
        Self(serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    /// Takes a JSON value as it was received.
    ///
    /// # Errors
    /// [`ArgumentError`].
    pub fn from_raw(raw: &RawValue) -> Result<Self, ArgumentError> {
        let compact = compact(raw.get())?;
        Ok(Self(match compact {
            Cow::Borrowed(_) => raw.to_owned(),
            // Dropping white space between tokens cannot make valid JSON invalid.
            Cow::Owned(text) => RawValue::from_string(text).unwrap_or_else(|_| raw.to_owned()),
        }))
    }

    /// The JSON text.
    pub fn json(&self) -> &str {
        self.0.get()
    }

    /// What the ledger gets: a string as it is, any other value as its compact JSON text.
    pub fn ledger_text(&self) -> Cow<'_, str> {
        if self.json().starts_with('"')
            && let Ok(text) = serde_json::from_str::<String>(self.json())
        {
            return Cow::Owned(text);
        }
        Cow::Borrowed(self.json())
    }
}

impl PartialEq for Argument {
    fn eq(&self, other: &Self) -> bool {
        self.json() == other.json()
    }
}

impl Eq for Argument {}

impl Serialize for Argument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Argument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        match compact(raw.get()).map_err(de::Error::custom)? {
            Cow::Borrowed(_) => Ok(Self(raw)),
            Cow::Owned(text) => RawValue::from_string(text).map(Self).map_err(de::Error::custom),
        }
    }
}

/// Refuses escapes that are one half of a surrogate pair without the other.
fn check_escapes(json: &str) -> Result<(), ArgumentError> {
    // In valid JSON a backslash begins an escape, and the four digits after `\u` are there.
    let unit = |text: &str| u16::from_str_radix(text.get(..4)?, 16).ok();
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        rest = &rest[at + 1..];
        let Some(first) = rest.strip_prefix('u').and_then(unit) else {
            rest = rest.get(1..).unwrap_or_default();
            continue;
        };
        rest = rest.get(5..).unwrap_or_default();
        if (0xd800..0xdc00).contains(&first) {
            let second = rest.strip_prefix("\\u").and_then(unit);
            if !second.is_some_and(|second| (0xdc00..0xe000).contains(&second)) {
                return Err(ArgumentError::HalfCharacter(first));
            }
            rest = rest.get(6..).unwrap_or_default();
        } else if (0xdc00..0xe000).contains(&first) {
            return Err(ArgumentError::HalfCharacter(first));
        }
    }
    Ok(())
}

/// Drops white space outside strings and measures the depth, in one pass without recursion.
fn compact(json: &str) -> Result<Cow<'_, str>, ArgumentError> {
    check_escapes(json)?;
    let (mut depth, mut in_string, mut escaped, mut spaces) = (0_usize, false, false, 0_usize);
    for byte in json.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(ArgumentError::TooDeep);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b' ' | b'\t' | b'\r' | b'\n' => spaces += 1,
            _ => {}
        }
    }
    if spaces == 0 {
        return Ok(Cow::Borrowed(json));
    }
    let (mut in_string, mut escaped) = (false, false);
    let kept = json.chars().filter(|&c| {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            return true;
        }
        in_string = c == '"';
        !matches!(c, ' ' | '\t' | '\r' | '\n')
    });
    Ok(Cow::Owned(kept.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(json: &str) -> Argument {
        serde_json::from_str(json).expect("valid argument")
    }

    #[test]
    fn numbers_keep_every_digit() {
        for number in ["0.10", "123456789012345678901234567890", "1e2", "-0"] {
            assert_eq!(argument(number).ledger_text(), number);
        }
    }

    #[test]
    fn strings_go_to_the_ledger_unquoted() {
        assert_eq!(argument(r#""a \"b\" é""#).ledger_text(), "a \"b\" é");
        assert_eq!(Argument::text("x").ledger_text(), "x");
    }

    #[test]
    fn half_characters_are_refused_at_any_depth() {
        for half in [
            r#""\ud800""#,
            r#""\uDFFFx""#,
            r#"{"a":["\\\ud83d\n"]}"#,
            r#"{"\ud800\u0041":1}"#,
        ] {
            let error = serde_json::from_str::<Argument>(half).expect_err(half);
            assert!(error.to_string().contains("half of a pair"), "{error}");
        }
        assert_eq!(
            argument(r#""\ud83d\ude00 \\ud800 \u00e9""#).ledger_text(),
            "😀 \\ud800 é"
        );
    }

    #[test]
    fn white_space_between_tokens_does_not_count() {
        assert_eq!(
            argument("{ \"a b\" : [ 1 ,\n\"\\\" x\" ] }"),
            argument(r#"{"a b":[1,"\" x"]}"#)
        );
    }

    #[test]
    fn deep_nesting_is_refused_without_recursion() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let raw = RawValue::from_string("[".repeat(65) + &"]".repeat(65)).expect("valid JSON");
        assert_eq!(Argument::from_raw(&raw), Err(ArgumentError::TooDeep));
        assert_eq!(compact(&deep), Err(ArgumentError::TooDeep));
        let ok = "[".repeat(64) + &"]".repeat(64);
        assert!(compact(&ok).is_ok());
    }
}

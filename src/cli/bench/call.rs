//! What a load calls: contract, function, and arguments with places for a key and a number.

use std::fmt::Write;
use std::str::FromStr;

use serde::Serialize;
use serde_json::value::RawValue;

/// One call of a mix, as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    /// How often it is drawn, next to the weights of the others.
    pub(super) weight: u32,
    /// `None` is the ledger's default one.
    pub(super) contract: Option<String>,
    pub(super) function: String,
    pub(super) args: Args,
}

/// Reads `WEIGHT CONTRACT FUNCTION ARGS`.
impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let how = || "write it as 'WEIGHT CONTRACT FUNCTION ARGS', such as '9 counter Add [\"{key}\", 1]'";
        let mut parts = text.trim().splitn(4, ' ');
        let (Some(weight), Some(contract), Some(function), Some(args)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(how().to_owned());
        };
        let weight = match weight.parse() {
            Ok(weight @ 1..=1_000_000) => weight,
            _ => {
                return Err(format!(
                    "the weight has to be from 1 to 1000000, not {weight:?}; {}",
                    how()
                ));
            }
        };
        Ok(Self {
            weight,
            contract: Some(contract.to_owned()),
            function: function.to_owned(),
            args: args.parse()?,
        })
    }
}

/// A JSON array with places to fill in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Args {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Key,
    Number,
    Run,
}

impl Args {
    /// As it was typed.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Writes the array for one transaction.
    pub(super) fn fill(&self, into: &mut String, key: u32, number: u64, run: &str) {
        for piece in &self.pieces {
            // Writing to a string does not fail.
            let _written = match piece {
                Piece::Text(text) => into.write_str(text),
                Piece::Key => write!(into, "key-{key}"),
                Piece::Number => write!(into, "{number}"),
                Piece::Run => into.write_str(run),
            };
        }
    }
}

impl FromStr for Args {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((at, place, piece)) = [
            ("{key}", Piece::Key),
            ("{n}", Piece::Number),
            ("{run}", Piece::Run),
        ]
        .into_iter()
        .filter_map(|(place, piece)| Some((rest.find(place)?, place, piece)))
        .min_by_key(|&(at, ..)| at)
        {
            pieces.push(Piece::Text(rest[..at].to_owned()));
            pieces.push(piece);
            rest = &rest[at + place.len()..];
        }
        pieces.push(Piece::Text(rest.to_owned()));
        let args = Self {
            text: text.to_owned(),
            pieces,
        };
        let mut sample = String::new();
        args.fill(&mut sample, 1, 1, "run");
        match serde_json::from_str::<Vec<&RawValue>>(&sample) {
            Ok(_) => Ok(args),
            Err(error) => Err(format!(
                "the arguments have to be a JSON array, such as [\"{{key}}\", 1]: {error}"
            )),
        }
    }
}

/// A call as it is sent: everything but the arguments written once.
#[derive(Debug)]
pub(super) struct Body {
    head: String,
    args: Args,
    run: String,
}

#[derive(Serialize)]
struct Head<'a> {
    ledger: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    contract: Option<&'a str>,
    function: &'a str,
    metadata: Labels<'a>,
}

#[derive(Serialize)]
struct Labels<'a> {
    bench: &'a str,
}

impl Body {
    /// Its transactions carry the label `bench` with this value.
    pub(super) fn new(call: &Call, ledger: &str, run: &str, label: &str) -> serde_json::Result<Self> {
        let head = serde_json::to_string(&Head {
            ledger,
            contract: call.contract.as_deref(),
            function: &call.function,
            metadata: Labels { bench: label },
        })?;
        Ok(Self {
            head: head.trim_end_matches('}').to_owned() + "},\"args\":",
            args: call.args.clone(),
            run: run.to_owned(),
        })
    }

    pub(super) fn text(&self, key: u32, number: u64) -> String {
        let mut text = String::with_capacity(self.head.len() + self.args.text.len() + 64);
        text.push_str(&self.head);
        self.args.fill(&mut text, key, number, &self.run);
        text.push('}');
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_body_is_filled_in() {
        let call: Call = r#"3 counter Add ["{run}/{key}", {n}, {"of": "{n} {x}"}]"#
            .parse()
            .expect("valid");
        let body = Body::new(&call, "main", "r1", "r1-warm-up")
            .expect("JSON")
            .text(7, 42);
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            body,
            json!({"ledger": "main", "contract": "counter", "function": "Add", "metadata": {"bench": "r1-warm-up"},
                "args": ["r1/key-7", 42, {"of": "42 {x}"}]})
        );
        assert_eq!(call.weight, 3);
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, told) in [
            ("counter Add []", "write it as"),
            ("0 counter Add []", "from 1 to"),
            ("1 counter Add {}", "JSON array"),
            ("1 counter Add [", "JSON array"),
            ("1 counter Add [{key}]", "JSON array"),
        ] {
            let error = text.parse::<Call>().expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}

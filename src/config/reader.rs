//! Takes settings out of the tree one by one, each checked, and remembers every mistake.
//!
//! A reader never stops: a key that is wrong is noted and answered with its default, so that one run finds
//! all mistakes. What nobody took by [`Section::finish`] is a key that does not exist.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Effective;
use super::problem::{Origin, Problem, nearest};
use super::tree::{Node, Table, Value};

/// What reading brought to light, shared by all sections.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: RefCell<Vec<Problem>>,
    pub(super) effective: RefCell<Vec<Effective>>,
}

/// One table of the configuration.
pub(super) struct Section<'f> {
    /// Dotted, empty for the root.
    path: String,
    left: Table,
    taken: BTreeMap<&'static str, Origin>,
    findings: &'f Findings,
}

/// A number as it was written, or what was written instead.
enum Number {
    Whole(i128),
    Fraction(f64),
    No(String),
}

impl<'f> Section<'f> {
    pub(super) fn root(tree: Table, findings: &'f Findings) -> Self {
        Self {
            path: String::new(),
            left: tree,
            taken: BTreeMap::new(),
            findings,
        }
    }

    fn dotted(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Node> {
        let node = self.left.remove(key);
        self.taken.insert(
            key,
            node.as_ref().map_or(Origin::BuiltIn, |node| node.origin.clone()),
        );
        node
    }

    /// Where `key`, already taken, was set.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.taken.get(key).cloned().unwrap_or(Origin::BuiltIn)
    }

    /// Notes a mistake in `key`, already taken.
    pub(super) fn problem(&self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.problem_at(self.origin(key), key, what.into(), remedy.into());
    }

    pub(super) fn problem_at(&self, origin: Origin, key: &str, what: String, remedy: String) {
        self.findings.problems.borrow_mut().push(Problem {
            origin,
            key: self.dotted(key),
            what,
            remedy,
        });
    }

    /// Notes what a key ended up as, written as TOML.
    pub(super) fn effective(&self, key: &str, value: impl Display) {
        self.findings.effective.borrow_mut().push(Effective {
            key: self.dotted(key),
            value: value.to_string(),
            origin: self.origin(key),
        });
    }

    /// The table under `key`; empty if there is none.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'f> {
        let node = self.take(key);
        self.sub_section(key, node)
    }

    /// The tables under `key` by name, or `None` if `key` is not there at all.
    pub(super) fn sections(&mut self, key: &'static str) -> Option<Vec<(String, Origin, Section<'f>)>> {
        let node = self.take(key)?;
        let mut outer = self.sub_section(key, Some(node));
        let tables = std::mem::take(&mut outer.left);
        Some(
            tables
                .into_iter()
                .map(|(name, node)| {
                    let origin = node.origin.clone();
                    let section = outer.sub_section(&name, Some(node));
                    (name, origin, section)
                })
                .collect(),
        )
    }

    fn sub_section(&self, key: &str, node: Option<Node>) -> Section<'f> {
        let path = self.dotted(key);
        let left = match node {
            None => Table::new(),
            Some(Node {
                value: Value::Table(table),
                ..
            }) => table,
            Some(Node { origin, .. }) => {
                let remedy = format!("write [{path}] on a line of its own and its keys below");
                self.problem_at(origin, key, "is a section, not a setting".to_owned(), remedy);
                Table::new()
            }
        };
        Section {
            path,
            left,
            taken: BTreeMap::new(),
            findings: self.findings,
        }
    }

    /// A whole number within `range`.
    pub(super) fn u64_in(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = (*range.start(), *range.end());
        let read = match self.take(key).map(number) {
            None => Ok(default),
            Some(Number::Whole(number)) => u64::try_from(number)
                .ok()
                .filter(|number| range.contains(number))
                .ok_or_else(|| number.to_string()),
            Some(Number::Fraction(number)) => Err(number.to_string()),
            Some(Number::No(found)) => Err(found),
        };
        let value = read.unwrap_or_else(|found| {
            self.problem(
                key,
                format!("is {found}"),
                format!("write a whole number from {low} to {high}"),
            );
            default
        });
        self.effective(key, value);
        value
    }

    /// A whole number within `range`.
    pub(super) fn u32_in(&mut self, key: &'static str, default: u32, range: RangeInclusive<u32>) -> u32 {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        u32::try_from(self.u64_in(key, default.into(), range)).unwrap_or(default)
    }

    /// A whole number within `range`.
    pub(super) fn usize_in(
        &mut self,
        key: &'static str,
        default: usize,
        range: RangeInclusive<u32>,
    ) -> usize {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        usize::try_from(self.u64_in(key, default as u64, range)).unwrap_or(default)
    }

    /// A number, with or without a fraction, within `range`.
    pub(super) fn f64_in(&mut self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let (low, high) = (*range.start(), *range.end());
        let read = match self.take(key).map(number) {
            None => Ok(default),
            Some(Number::Whole(number)) => Ok(number as f64),
            Some(Number::Fraction(number)) => Ok(number),
            Some(Number::No(found)) => Err(found),
        };
        let read = read.and_then(|number| match range.contains(&number) {
            true => Ok(number),
            false => Err(number.to_string()),
        });
        let value = read.unwrap_or_else(|found| {
            self.problem(
                key,
                format!("is {found}"),
                format!("write a number from {low} to {high}"),
            );
            default
        });
        self.effective(key, value);
        value
    }

    /// A duration in whole milliseconds.
    pub(super) fn duration_ms(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<u64>,
    ) -> Duration {
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.u64_in(key, default, range))
    }

    /// A duration in whole seconds.
    pub(super) fn duration_s(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_secs(self.u64_in(key, default.as_secs(), range))
    }

    /// A text that `check` turns into something, or says what is wrong with it.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        default: (T, &str),
        remedy: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let (default, written) = default;
        let (value, written) = match self.take(key).map(|node| node.value) {
            None => (Ok(default), written.to_owned()),
            Some(Value::Text(text) | Value::Untyped(text)) => {
                (check(&text).map_err(|what| (what, default)), text)
            }
            Some(value) => (
                Err((format!("is {}", describe(&value)), default)),
                written.to_owned(),
            ),
        };
        self.effective(key, as_toml(&*written));
        value.unwrap_or_else(|(what, default)| {
            self.problem(key, what, remedy);
            default
        })
    }

    /// One of a few words, each standing for a value.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        key: &'static str,
        default: T,
        choices: &[T],
        name: fn(T) -> &'static str,
    ) -> T {
        let words: Vec<String> = choices
            .iter()
            .map(|&choice| format!("{:?}", name(choice)))
            .collect();
        let remedy = format!("write {}", words.join(" or "));
        self.text(key, (default, name(default)), &remedy, |text| {
            let chosen = choices.iter().copied().find(|&choice| name(choice) == text);
            chosen.ok_or_else(|| format!("is {}", quoted(text)))
        })
    }

    /// A text that need not be there.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        remedy: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.may_be(key, remedy, check, |text, _| as_toml(text))
    }

    /// A text that has to be there.
    pub(super) fn required<T: Default>(
        &mut self,
        key: &'static str,
        remedy: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let value = self.optional(key, remedy, check);
        if !self.was_set(key) {
            self.problem(key, "is missing", remedy);
        }
        value.unwrap_or_default()
    }

    /// Texts in a list; in a variable, separated by commas. Empty if there is none.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        remedy: &str,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let written = match self.take(key).map(|node| node.value) {
            None => return Vec::new(),
            Some(Value::List(texts)) => texts,
            Some(Value::Untyped(text)) => {
                let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
                texts.map(str::to_owned).collect()
            }
            Some(value) => {
                self.problem(key, format!("is {}", describe(&value)), remedy);
                return Vec::new();
            }
        };
        self.effective(key, as_toml(written.clone()));
        let mut values = Vec::with_capacity(written.len());
        for checked in written.iter().map(|text| check(text)) {
            match checked {
                Ok(value) => values.push(value),
                Err(what) => self.problem(key, what, remedy),
            }
        }
        values
    }

    /// A whole number that need not be there.
    pub(super) fn optional_u64(&mut self, key: &'static str) -> Option<u64> {
        self.left
            .contains_key(key)
            .then(|| self.u64_in(key, 0, 0..=u64::MAX))
            .or_else(|| {
                self.taken.insert(key, Origin::BuiltIn);
                None
            })
    }

    /// A number within `range` that need not be there.
    pub(super) fn optional_f64(&mut self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let least = *range.start();
        self.left
            .contains_key(key)
            .then(|| self.f64_in(key, least, range))
            .or_else(|| {
                self.taken.insert(key, Origin::BuiltIn);
                None
            })
    }

    /// A text that need not be there and that nobody may see: neither its value nor what is wrong with it is
    /// told but by `shown` and `check`.
    pub(super) fn secret<T>(
        &mut self,
        key: &'static str,
        remedy: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
        shown: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        self.may_be(key, remedy, check, |_, value| as_toml(shown(value)))
    }

    fn may_be<T>(
        &mut self,
        key: &'static str,
        remedy: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
        shown: impl FnOnce(&str, &T) -> String,
    ) -> Option<T> {
        let checked = match self.take(key)?.value {
            Value::Text(text) | Value::Untyped(text) => {
                check(&text).map(|value| (shown(&text, &value), value))
            }
            value => {
                // A number may be somebody's password.
                Err(match value {
                    Value::Table(_) => "is a section, not a text".to_owned(),
                    _ => "is not a text; put it in quotes".to_owned(),
                })
            }
        };
        match checked {
            Ok((shown, value)) => {
                self.effective(key, shown);
                Some(value)
            }
            Err(what) => {
                self.problem(key, what, remedy);
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let read = match self.take(key).map(|node| node.value) {
            None => Ok(default),
            Some(Value::Flag(flag)) => Ok(flag),
            Some(Value::Untyped(text)) => text.trim().parse().map_err(|_| quoted(&text)),
            Some(value) => Err(describe(&value)),
        };
        let value = read.unwrap_or_else(|found| {
            self.problem(key, format!("is {found}"), "write true or false");
            default
        });
        self.effective(key, value);
        value
    }

    /// Which of the kinds `offered` the section is of; the first if nobody says. If it is none of them, that
    /// is noted, and [`Section::finish_unread`] ends the section.
    pub(super) fn kind(&mut self, offered: &[&'static str]) -> Option<&'static str> {
        let words: Vec<_> = offered.iter().map(|kind| format!("kind = {kind:?}")).collect();
        let remedy = format!("this version offers only {}", words.join(" or "));
        let default = offered.first().copied().unwrap_or_default();
        let before = self.findings.problems.borrow().len();
        let kind = self.text("kind", (default, default), &remedy, |text| {
            let chosen = offered.iter().copied().find(|kind| *kind == text);
            chosen.ok_or_else(|| format!("is {}, which is not available", quoted(text)))
        });
        (before == self.findings.problems.borrow().len()).then_some(kind)
    }

    /// Whether `key`, already taken, was set by somebody.
    pub(super) fn was_set(&self, key: &str) -> bool {
        self.origin(key) != Origin::BuiltIn
    }

    /// Ends the section: every key that nobody took is unknown.
    pub(super) fn finish(self) {
        for (key, node) in &self.left {
            let remedy = match nearest(key, self.taken.keys().copied()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("remove it, or use one of: {}", self.known()),
            };
            self.problem_at(node.origin.clone(), key, "is not a known key".to_owned(), remedy);
        }
    }

    /// Ends a section of an unavailable kind: which keys it has is not known.
    pub(super) fn finish_unread(self) {}

    fn known(&self) -> String {
        self.taken.keys().copied().collect::<Vec<_>>().join(", ")
    }
}

/// As it would be written in a file.
fn as_toml(value: impl Into<toml::Value>) -> String {
    value.into().to_string()
}

fn number(node: Node) -> Number {
    match node.value {
        Value::Integer(number) => Number::Whole(number),
        Value::Float(number) => Number::Fraction(number),
        Value::Untyped(text) => {
            let digits = text.trim().replace('_', "");
            match (digits.parse(), digits.parse()) {
                (Ok(number), _) => Number::Whole(number),
                (_, Ok(number)) => Number::Fraction(number),
                _ => Number::No(quoted(&text)),
            }
        }
        Value::Text(text) => Number::No(format!("the text {}", quoted(&text))),
        value @ (Value::Table(_) | Value::List(_) | Value::Flag(_) | Value::Other(_)) => {
            Number::No(describe(&value))
        }
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Text(text) | Value::Untyped(text) => quoted(text),
        Value::Integer(number) => format!("the number {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Flag(flag) => flag.to_string(),
        Value::Table(_) => "a section".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Other(name) => (*name).to_owned(),
    }
}

/// The text in quotes, cut if it is long.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

//! The configuration before anybody interprets it: a tree whose every node knows where it was written.
//!
//! The file is read first, then the environment is laid over it; where both set a key, the environment
//! wins. A mistake in one place never hides one in another.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Problem};

/// What names of environment variables start with that carry settings.
pub(super) const PREFIX: &str = "SLUICEGATE__";

/// Keys and what they are set to.
pub(super) type Table = BTreeMap<String, Node>;

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

/// A value as written.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// A string of the file.
    Text(String),
    /// A whole number of the file.
    Integer(i128),
    /// A number with a fraction of the file.
    Float(f64),
    /// The text of an environment variable: what it is depends on who reads it.
    Untyped(String),
    /// A section.
    Table(Table),
    /// A list of strings.
    List(Vec<String>),
    /// `true` or `false`.
    Flag(bool),
    /// A kind of value that no setting has: its name.
    Other(&'static str),
}

/// Reads the text of a configuration file; `name` is what messages call the file.
///
/// # Errors
/// All places where it is not TOML. The tree is then of no use: a broken header would put the keys that
/// follow it into the wrong section.
pub(super) fn parse(name: &str, text: &str) -> Result<Table, Vec<Problem>> {
    let lines = Lines::new(name, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(table(document.get_ref(), &lines));
    }
    let mut problems: Vec<Problem> = Vec::new();
    for error in errors {
        let origin = error
            .span()
            .map_or_else(|| Origin::File(name.into()), |span| lines.origin(span));
        // What follows on the same line is mostly the same mistake seen again.
        if problems.last().is_none_or(|last| last.origin != origin) {
            problems.push(Problem {
                origin,
                key: String::new(),
                what: format!("is not valid TOML: {}", error.message()),
                remedy: "correct the line; the settings are checked once the file can be read".to_owned(),
            });
        }
    }
    Err(problems)
}

fn table(from: &DeTable<'_>, lines: &Lines) -> Table {
    from.iter()
        .map(|(key, value)| {
            let node = Node {
                origin: lines.origin(key.span()),
                value: read(value.get_ref(), lines),
            };
            (key.get_ref().to_string(), node)
        })
        .collect()
}

fn read(value: &DeValue<'_>, lines: &Lines) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            let digits = number.as_str();
            // What does not fit is outside of every range anyway.
            let end = if digits.starts_with('-') {
                i128::MIN
            } else {
                i128::MAX
            };
            Value::Integer(i128::from_str_radix(digits, number.radix()).unwrap_or(end))
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Table(inner) => Value::Table(table(inner, lines)),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Array(items) => {
            let texts = items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned));
            texts
                .collect::<Option<_>>()
                .map_or(Value::Other("a list"), Value::List)
        }
    }
}

/// Turns positions into line numbers.
struct Lines {
    file: Arc<str>,
    starts: Vec<usize>,
}

impl Lines {
    fn new(file: &str, text: &str) -> Self {
        let after_breaks = text
            .bytes()
            .enumerate()
            .filter(|&(_, byte)| byte == b'\n')
            .map(|(at, _)| at + 1);
        Self {
            file: file.into(),
            starts: std::iter::once(0).chain(after_breaks).collect(),
        }
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        let line = self.starts.partition_point(|&start| start <= span.start);
        Origin::Line(Arc::clone(&self.file), line)
    }
}

/// Lays the variables that start with [`PREFIX`] over `tree` and returns what is wrong with their names.
pub(super) fn overlay(
    tree: &mut Table,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut seen: BTreeMap<String, Arc<str>> = BTreeMap::new();
    // Sorted, so that the same environment always gives the same messages.
    let mut variables: Vec<_> = variables.into_iter().collect();
    variables.sort();
    for (name, value) in variables {
        let name = name.to_string_lossy();
        let Some(rest) = name
            .get(..PREFIX.len())
            .filter(|start| start.eq_ignore_ascii_case(PREFIX))
        else {
            continue;
        };
        let rest = name[rest.len()..].to_ascii_lowercase();
        let name: Arc<str> = name.as_ref().into();
        let path: Vec<&str> = rest.split("__").collect();
        let origin = Origin::Variable(Arc::clone(&name));
        let mut problem = |what: &str, remedy: String| {
            problems.push(Problem {
                origin: origin.clone(),
                key: path.join("."),
                what: what.to_owned(),
                remedy,
            });
        };
        if path.iter().any(|part| part.is_empty()) {
            problem(
                "is not the name of a setting",
                format!("write {PREFIX}SECTION__KEY, such as {PREFIX}HTTP__LISTEN"),
            );
            continue;
        }
        if let Some(other) = seen.insert(rest.clone(), Arc::clone(&name)) {
            problem("is set twice", format!("remove this variable or {other}"));
            continue;
        }
        match value.into_string() {
            Ok(value) => {
                if set(tree, &path, &origin, value).is_err() {
                    problem(
                        "is a section, not a setting",
                        format!("set its keys, each as {name}__KEY"),
                    );
                }
            }
            Err(_) => problem("is not valid UTF-8", "set it to plain text".to_owned()),
        }
    }
    problems
}

/// A plain value is to replace a section.
struct IsSection;

fn set(tree: &mut Table, path: &[&str], origin: &Origin, value: String) -> Result<(), IsSection> {
    let Some((&first, rest)) = path.split_first() else {
        return Ok(());
    };
    // A ledger `fabric-eu` is `FABRIC_EU` here: most shells allow no hyphen in a name.
    let key = match tree
        .keys()
        .find(|key| key.replace('-', "_") == first.replace('-', "_"))
    {
        Some(key) if !tree.contains_key(first) => key.clone(),
        _ => first.to_owned(),
    };
    if rest.is_empty() {
        let present = tree.get(&key).map(|node| &node.value);
        if matches!(present, Some(Value::Table(_))) {
            return Err(IsSection);
        }
        tree.insert(
            key,
            Node {
                origin: origin.clone(),
                value: Value::Untyped(value),
            },
        );
        return Ok(());
    }
    let node = tree.entry(key).or_insert_with(|| Node {
        origin: origin.clone(),
        value: Value::Table(Table::new()),
    });
    match &mut node.value {
        Value::Table(inner) => set(inner, rest, origin, value),
        // The reader says what is wrong with a plain value where a section should be.
        _ => Ok(()),
    }
}

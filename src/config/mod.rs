//! The configuration: built-in values, then a TOML file, then the environment.
//!
//! A key of section `http` called `listen` is set by the file's `[http] listen = ...` or by the variable
//! `SLUICEGATE__HTTP__LISTEN` (in any case), which wins. All mistakes are reported at once, each with its
//! line or its variable, what is wrong and what to do; a key that does not exist is a mistake. Checked
//! [`Settings`] come out, past which nothing can be invalid.
//!
//! `tree` holds what was written and where, `reader` takes it apart key by key, `schema` lists the keys.

mod access;
mod archive;
mod fabric;
#[cfg(test)]
mod fabric_tests;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod otlp;
mod postgres;
mod problem;
mod rabbitmq;
mod reader;
mod schema;
mod secret;
mod server_url;
mod settings;
#[cfg(test)]
mod tests;
mod tree;
mod webhooks;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub use access::{AuthSettings, JwksSource, JwtSettings, TenantRate, TenantSettings, TlsSettings};
pub use archive::{ArchivePlace, ArchiveSettings, BucketCredentials, BucketSettings};
pub(crate) use fabric::is_chaincode_name;
pub use fabric::{FabricSettings, KeysKept, PrivateKey};
pub use otlp::OtlpSettings;
pub use postgres::PostgresSettings;
pub use problem::{ConfigError, Origin, Problem};
pub use rabbitmq::{QueueType, RabbitSettings, TlsIdentity};
pub(crate) use schema::log_level as check_log_level;
pub use secret::Secret;
pub use server_url::ServerUrl;
pub use settings::{
    AdaptiveSettings, BackendSettings, BackpressureMode, BackpressureSettings, EmbeddedStoreSettings,
    HttpSettings, LedgerSettings, LogFormat, LogSettings, QueueSettings, RetentionSettings, Role, Settings,
    ShutdownSettings, SimulatorSettings, StoreSettings, WorkerSettings,
};
pub use webhooks::{AllowedTarget, EndpointSettings, WebhookSettings};

/// The file that is read when none is named and it is there.
pub const DEFAULT_FILE: &str = "config.toml";

/// Checked settings, and where they came from.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// Every key with the value it ended up with, in the order of reading.
    pub effective: Vec<Effective>,
}

/// A key and what it is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The full dotted key.
    pub key: String,
    /// Its value as TOML.
    pub value: String,
    /// Who set it.
    pub origin: Origin,
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.key, self.value)
    }
}

/// Loads the settings from `path`, or from [`DEFAULT_FILE`] if no path is given and that file exists, and
/// from the environment of this process.
///
/// # Errors
/// Everything that is wrong, a named file that cannot be read included.
pub fn load(path: Option<&Path>) -> Result<Loaded, ConfigError> {
    let (file, optional) = match path {
        Some(path) => (path, false),
        None => (Path::new(DEFAULT_FILE), true),
    };
    let name = file.display().to_string();
    let bytes = match std::fs::read(file) {
        Ok(bytes) => Some(bytes),
        Err(error) if optional && error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(ConfigError::new(vec![unreadable(&name, &error)])),
    };
    let read = bytes.is_some().then(|| file.to_owned());
    let (settings, effective) = merge(
        bytes.as_deref().map(|bytes| (name.as_str(), bytes)),
        environment(),
    )?;
    Ok(Loaded {
        settings,
        file: read,
        effective,
    })
}

fn unreadable(name: &str, error: &io::Error) -> Problem {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "check the path given with --config",
        io::ErrorKind::PermissionDenied => "let the user who runs the gateway read it",
        io::ErrorKind::IsADirectory => "name a file, not a directory",
        _ => "check the file and its disk",
    };
    Problem {
        origin: Origin::File(name.into()),
        key: String::new(),
        what: format!("cannot be read: {error}"),
        remedy: remedy.to_owned(),
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where settings come from")]
fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
}

/// The settings that a file (its name and content) and variables amount to.
fn merge(
    file: Option<(&str, &[u8])>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(Settings, Vec<Effective>), ConfigError> {
    let mut tree = match file.map(|(name, bytes)| (name, std::str::from_utf8(bytes), bytes)) {
        None => tree::Table::new(),
        Some((name, Ok(text), _)) => {
            tree::parse(name, text.strip_prefix('\u{feff}').unwrap_or(text)).map_err(ConfigError::new)?
        }
        Some((name, Err(error), bytes)) => {
            let line = 1 + bytes[..error.valid_up_to()]
                .iter()
                .filter(|&&byte| byte == b'\n')
                .count();
            return Err(ConfigError::new(vec![Problem {
                origin: Origin::Line(name.into(), line),
                key: String::new(),
                what: "is not valid UTF-8".to_owned(),
                remedy: "save the file as UTF-8".to_owned(),
            }]));
        }
    };
    let findings = reader::Findings::default();
    findings
        .problems
        .borrow_mut()
        .extend(tree::overlay(&mut tree, variables));
    let settings = schema::settings(tree, &findings);
    let problems = findings.problems.into_inner();
    match problems.is_empty() {
        true => Ok((settings, findings.effective.into_inner())),
        false => Err(ConfigError::new(problems)),
    }
}

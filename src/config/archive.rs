//! `[archive]`: where records go before retention removes them.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::reader::{Section, quoted};
use super::secret::Secret;

const URL: &str =
    "write an address such as \"file:///var/lib/sluicegate/archive\" or \"s3://bucket/sluicegate\"";
const ENDPOINT: &str = "write an address such as \"https://minio.example:9000\"";
/// Keys without a built-in value.
const KEYS_OF_S3: [&str; 5] = [
    "endpoint",
    "region",
    "access_key_id",
    "secret_access_key",
    "session_token",
];

/// `[archive]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSettings {
    /// Where the objects are.
    pub place: ArchivePlace,
    /// How long what is due waits for more, to become one object with it.
    pub gather: Duration,
}

/// Where an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchivePlace {
    /// In a folder, which has to be there.
    Folder(PathBuf),
    /// In a bucket of S3, or of what speaks like it.
    Bucket(Box<BucketSettings>),
}

/// A bucket, and how to get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSettings {
    /// Its name.
    pub bucket: String,
    /// What the names of all objects begin with, without a slash at either end; may be empty.
    pub prefix: String,
    /// Where it is, if not at AWS.
    pub endpoint: Option<String>,
    /// The region; `None` is us-east-1, or what the `AWS_` variables say if the key is left to them.
    pub region: Option<String>,
    /// What opens it; `None` leaves it to the `AWS_` variables, then to the role of this machine.
    pub credentials: Option<BucketCredentials>,
    /// Whether the way there may be without TLS.
    pub allow_http: bool,
}

/// An access key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketCredentials {
    /// Its id, which is no secret.
    pub key_id: String,
    /// What signs requests.
    pub secret: Secret,
    /// What comes with a key that is for a while only.
    pub token: Option<Secret>,
}

/// What `url` names.
enum Target {
    Folder(PathBuf),
    Bucket { bucket: String, prefix: String },
}

/// `None` if there is no archive.
pub(super) fn read(mut section: Section<'_>) -> Option<ArchiveSettings> {
    let target = section.secret("url", URL, target, shown);
    let gather = 60 * section.u64_in("gather_minutes", 60, 0..=1_440);
    let endpoint = section.optional("endpoint", ENDPOINT, endpoint);
    let region = section.optional("region", "write a name such as \"eu-central-1\"", word);
    let key_id = section.optional("access_key_id", "write the id of an access key", word);
    let mut secret = |key| {
        let remedy = "write it, or set the variable of this key";
        let hide = |text: &str| word(text).map(Secret::new).map_err(|_| "is no key".to_owned());
        section.secret(key, remedy, hide, |_| "***".to_owned())
    };
    let (secret, token) = (secret("secret_access_key"), secret("session_token"));
    let allow_http = section.flag("allow_http", false);
    let (has_id, has_secret) = (
        section.was_set("access_key_id"),
        section.was_set("secret_access_key"),
    );
    for (there, missing, lacks) in [
        ("access_key_id", "secret_access_key", has_id && !has_secret),
        ("secret_access_key", "access_key_id", has_secret && !has_id),
        (
            "session_token",
            "access_key_id",
            section.was_set("session_token") && !has_id,
        ),
    ] {
        if lacks {
            let what = format!("does not fit: there is no {missing}");
            section.problem(there, what, format!("set {missing} as well"));
        }
    }
    let plain = endpoint.as_ref().is_some_and(|url| url.starts_with("http://"));
    if plain && !allow_http {
        let remedy = "write https, or set allow_http = true where the network is safe";
        section.problem("endpoint", "is not encrypted", remedy);
    }
    let settings = match target {
        _ if !section.was_set("url") => {
            for key in KEYS_OF_S3 {
                if section.was_set(key) {
                    section.problem(key, "does not fit: there is no url", "set url as well");
                }
            }
            None
        }
        // What is wrong with it is told already.
        None => None,
        Some(Target::Folder(folder)) => {
            for key in KEYS_OF_S3 {
                if section.was_set(key) {
                    let remedy = "leave it out, or write an s3:// address in url";
                    section.problem(key, "does not fit: the archive is a folder", remedy);
                }
            }
            Some(ArchivePlace::Folder(folder))
        }
        Some(Target::Bucket { bucket, prefix }) => Some(ArchivePlace::Bucket(Box::new(BucketSettings {
            bucket,
            prefix,
            endpoint,
            region,
            credentials: key_id.zip(secret).map(|(key_id, secret)| BucketCredentials {
                key_id,
                secret,
                token,
            }),
            allow_http,
        }))),
    };
    section.finish();
    settings.map(|place| ArchiveSettings {
        place,
        gather: Duration::from_secs(gather),
    })
}

/// Reads the address of an archive. It may hold a password by mistake, so it is not quoted.
fn target(text: &str) -> Result<Target, String> {
    let url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "holds a name or a password, which belong into access_key_id and secret_access_key".to_owned(),
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("goes on with a ? or a #".to_owned());
    }
    match url.scheme() {
        "file" => {
            // `file://archive` would be a folder of the machine `archive`.
            let here = url.host_str().is_none_or(str::is_empty);
            let folder = url.to_file_path().ok().filter(|_| here);
            folder
                .map(Target::Folder)
                .ok_or_else(|| "names no folder of this machine by its whole path".to_owned())
        }
        "s3" => {
            let bucket = url.host_str().unwrap_or_default().to_owned();
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.=".contains(c);
            let is_name =
                |name: &str| !name.is_empty() && name.chars().all(fits) && !name.chars().all(|c| c == '.');
            if !is_name(&bucket) || bucket.len() > 255 || url.port().is_some() {
                return Err("names no bucket".to_owned());
            }
            let prefix = url.path().trim_matches('/').to_owned();
            match prefix.is_empty() || prefix.split('/').all(is_name) {
                true => Ok(Target::Bucket { bucket, prefix }),
                false => {
                    Err("has a prefix with characters other than a-z, A-Z, 0-9, -, _, . and =".to_owned())
                }
            }
        }
        scheme => Err(format!("starts with {}", quoted(&format!("{scheme}:")))),
    }
}

fn shown(target: &Target) -> String {
    match target {
        Target::Folder(folder) => {
            Url::from_file_path(folder).map_or_else(|()| folder.display().to_string(), String::from)
        }
        Target::Bucket { bucket, prefix } => format!("s3://{bucket}/{prefix}"),
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
    let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    let web = matches!(url.scheme(), "http" | "https") && url.has_host();
    match bare && web && url.fragment().is_none() {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err("is not the plain address of a server".to_owned()),
    }
}

fn word(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.to_owned())
        .ok_or_else(|| format!("is {}", quoted(text)))
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;

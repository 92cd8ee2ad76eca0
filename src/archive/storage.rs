//! The place of an archive, through `object_store`.
//!
//! A write is durable when it is answered: a file and its folders are synced, and a bucket says so by itself. It is there as
//! a whole or not at all; a crash may leave a file whose name ends in `#` and a number, which nobody looks at.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};

use super::name::ObjectName;
use super::portion::{Portion, unpack};
use super::{ArchiveError, blocking};
use crate::config::{ArchivePlace, ArchiveSettings, BucketSettings};

/// Below the prefix: leaves room for others.
const TRANSACTIONS: &str = "transactions";

/// Written at the start, to see whether it can be.
const PROBE: &str = "probe";

/// One request to a bucket may take so long, and so long may it be tried.
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_FOR: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Nothing that large was written here.
const LARGEST: u64 = 1 << 30;

/// A place for objects that can be used.
#[derive(Debug, Clone)]
pub struct Archive {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Has to be there: an archive is not begun anew because its disk is not.
    folder: Option<PathBuf>,
}

impl Archive {
    /// Looks at the settings; a folder has to be there, a bucket is not asked.
    ///
    /// # Errors
    /// [`ArchiveError::Away`].
    pub fn open(settings: &ArchiveSettings) -> Result<Self, ArchiveError> {
        match &settings.place {
            ArchivePlace::Folder(folder) => {
                if !folder.is_dir() {
                    return Err(missing(folder));
                }
                let objects = LocalFileSystem::new_with_prefix(folder).map_err(away)?;
                Ok(Self {
                    objects: Arc::new(objects.with_fsync(true)),
                    prefix: Path::default(),
                    folder: Some(folder.clone()),
                })
            }
            ArchivePlace::Bucket(bucket) => Ok(Self {
                objects: Arc::new(self::bucket(bucket).build().map_err(away)?),
                prefix: Path::from(bucket.prefix.as_str()),
                folder: None,
            }),
        }
    }

    /// In memory, or broken on purpose.
    #[cfg(test)]
    pub(super) fn of(objects: Arc<dyn ObjectStore>) -> Self {
        Self {
            objects,
            prefix: Path::from("some/where"),
            folder: None,
        }
    }

    /// Writes something small and reads it back: whether the settings, the way there and its rights are right.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub(super) async fn probe(&self) -> Result<(), ArchiveError> {
        const WORDS: &[u8] = b"sluicegate writes this to see whether it can\n";
        self.is_there().await?;
        let path = self.prefix.clone().join(PROBE);
        self.objects.put(&path, WORDS.into()).await.map_err(away)?;
        let read = self.objects.get(&path).await.map_err(away)?.bytes().await;
        match *read.map_err(away)? == *WORDS {
            true => Ok(()),
            false => Err(ArchiveError::Damaged(format!(
                "{path} does not hold what was written"
            ))),
        }
    }

    /// Writes an object. It may be there already: then it is the same.
    ///
    /// # Errors
    /// [`ArchiveError::Away`]; it may be written all the same.
    pub(super) async fn put(&self, portion: &Portion) -> Result<(), ArchiveError> {
        self.is_there().await?;
        let path = self.path(&portion.name);
        let put = self.objects.put(&path, portion.payload.clone()).await;
        put.map(drop).map_err(away)
    }

    /// Reads an object back and compares it with its name, byte by byte and record by record.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub(super) async fn verify(&self, name: &ObjectName) -> Result<(), ArchiveError> {
        let bytes = self.read(&self.path(name)).await?;
        let name = name.clone();
        let unpacked = blocking(move || unpack(&name, &bytes, &mut |_| Ok(true)));
        unpacked.await.map(drop)
    }

    /// The bytes of an object.
    pub(super) async fn read(
        &self,
        path: &Path,
    ) -> Result<impl std::ops::Deref<Target = [u8]> + Send + 'static, ArchiveError> {
        let found = self.objects.get(path).await.map_err(away)?;
        if found.meta.size > LARGEST {
            let size = found.meta.size;
            return Err(ArchiveError::Damaged(format!(
                "it has {size} bytes, more than any that was written"
            )));
        }
        found.bytes().await.map_err(away)
    }

    /// All objects, those of one month at a time, in the order of their first ids.
    ///
    /// # Errors
    /// [`ArchiveError::Away`].
    pub(super) async fn walk(&self) -> Result<Walk<'_>, ArchiveError> {
        self.is_there().await?;
        Ok(Walk {
            archive: self,
            ahead: vec![(self.prefix.clone().join(TRANSACTIONS), 0)],
        })
    }

    fn path(&self, name: &ObjectName) -> Path {
        let day = name.day();
        let folders = self.prefix.clone().join(TRANSACTIONS);
        let day = day.split('/').fold(folders, |path, part| path.join(part));
        day.join(name.to_string())
    }

    async fn is_there(&self) -> Result<(), ArchiveError> {
        match &self.folder {
            Some(folder)
                if !tokio::fs::metadata(folder)
                    .await
                    .is_ok_and(|found| found.is_dir()) =>
            {
                Err(missing(folder))
            }
            _ => Ok(()),
        }
    }
}

fn missing(folder: &std::path::Path) -> ArchiveError {
    let shown = folder.display();
    ArchiveError::Away(format!(
        "there is no folder {shown}: make it, or mount its disk (archive.url)"
    ))
}

fn away(error: object_store::Error) -> ArchiveError {
    ArchiveError::Away(error.to_string())
}

fn bucket(settings: &BucketSettings) -> AmazonS3Builder {
    let client = ClientOptions::new()
        .with_timeout(TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(settings.allow_http);
    // Of the variables nothing is mixed with a key that is set here: they may hold the token of another one.
    let mut builder = match &settings.credentials {
        None => AmazonS3Builder::from_env(),
        Some(key) => AmazonS3Builder::new()
            .with_access_key_id(&key.key_id)
            .with_secret_access_key(key.secret.expose()),
    };
    if let Some(token) = settings.credentials.as_ref().and_then(|key| key.token.as_ref()) {
        builder = builder.with_token(token.expose());
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &settings.region {
        builder = builder.with_region(region);
    }
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 2,
        retry_timeout: RETRY_FOR,
    };
    builder
        .with_bucket_name(&settings.bucket)
        .with_client_options(client)
        .with_retry(retry)
}

/// A way through an archive.
pub(super) struct Walk<'a> {
    archive: &'a Archive,
    /// Folders not looked into yet, the next one last: that of all years, those of a year, those of a month.
    ahead: Vec<(Path, usize)>,
}

const MONTH: usize = 2;

/// An object that was found.
pub(super) struct Entry {
    pub(super) path: Path,
    pub(super) name: ObjectName,
}

impl Walk<'_> {
    /// The next objects, those of a month; `None` if there are no more. What has another name is passed over.
    ///
    /// # Errors
    /// [`ArchiveError::Away`].
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Entry>>, ArchiveError> {
        let objects = &self.archive.objects;
        while let Some((folder, depth)) = self.ahead.pop() {
            if depth < MONTH {
                let mut below = objects
                    .list_with_delimiter(Some(&folder))
                    .await
                    .map_err(away)?
                    .common_prefixes;
                below.sort_by(|one, other| other.cmp(one));
                self.ahead
                    .extend(below.into_iter().map(|folder| (folder, depth + 1)));
                continue;
            }
            // All days at once: a request for each of them would take long.
            let found: Vec<_> = objects.list(Some(&folder)).try_collect().await.map_err(away)?;
            let entry = |meta: ObjectMeta| {
                let name = ObjectName::parse(meta.location.filename()?)?;
                Some(Entry {
                    path: meta.location,
                    name,
                })
            };
            let mut entries: Vec<_> = found.into_iter().filter_map(entry).collect();
            if !entries.is_empty() {
                entries.sort_by(|one, other| one.path.cmp(&other.path));
                return Ok(Some(entries));
            }
        }
        Ok(None)
    }
}

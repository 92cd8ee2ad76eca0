//! `sluicegate backup`: a copy of the embedded store, from under a running gateway or from a stopped one.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::{ConfigArgs, print};
use crate::store::embedded::BackupReader;
use crate::{app, config};

/// Copy the embedded store into one file, while the gateway runs or while it is stopped
///
/// Everything acknowledged before the command began is in the copy. A running gateway goes on as ever: it is asked
/// through a socket in its data folder, so run this as the user that the gateway runs as. The file holds private inputs
/// of unfinished transactions; only its owner may read it. It appears under its name once it is whole and on the disk.
/// Exit status: 0 if it is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluicegate backup /backups/sluicegate-$(date +%F).backup
  sluicegate backup gateway.backup --config /etc/sluicegate/config.toml
  sluicegate restore gateway.backup --check

With PostgreSQL, use pg_basebackup or pg_dump.")]
pub struct BackupArgs {
    /// The file to make; there must be none of this name
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
}

const BUFFER: usize = 256 << 10;

pub(super) fn run(args: &BackupArgs) -> anyhow::Result<ExitCode> {
    let settings = config::load(args.config.config.as_deref())?.settings;
    anyhow::ensure!(
        !args.file.exists(),
        "there is a file {} already; remove it or choose another name",
        args.file.display()
    );
    let partial = Partial::create(&args.file)?;
    let copy = Copy {
        from: app::read_backup(&settings)?,
        to: &partial.file,
        bytes: 0,
    };
    let mut reader = BackupReader::open(BufReader::with_capacity(BUFFER, copy))?;
    let bar = bar(reader.header().records);
    while reader.next()?.is_some() {
        bar.set_position(reader.records());
    }
    bar.finish_and_clear();
    let (records, bytes) = (reader.records(), reader.get_ref().get_ref().bytes);
    drop(reader);
    partial
        .keep(&args.file)
        .with_context(|| format!("write {}", args.file.display()))?;
    print::line(format_args!(
        "{records} records, {}, are in {}",
        HumanBytes(bytes),
        args.file.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The bar for so many records; hidden where nobody watches.
pub(super) fn bar(records: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(records);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} records  {elapsed}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Writes down whatever is read.
struct Copy<'f, R> {
    from: R,
    to: &'f File,
    bytes: u64,
}

impl<R: Read> Read for Copy<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(bytes)?;
        self.to.write_all(&bytes[..read])?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// A file that is removed unless it is kept.
struct Partial {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Partial {
    /// Beside `file`, so that it can be moved there.
    fn create(file: &Path) -> anyhow::Result<Self> {
        let name = file.file_name().context("the backup needs the name of a file")?;
        let mut name = name.to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let path = file.with_file_name(name);
        let created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        Ok(Self {
            file: created.with_context(|| format!("create {}", path.display()))?,
            path,
            kept: false,
        })
    }

    /// Brings it to the disk and gives it its name.
    fn keep(mut self, file: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, file)?;
        self.kept = true;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            eprintln!("warning: {} is left: {error}", self.path.display());
        }
    }
}

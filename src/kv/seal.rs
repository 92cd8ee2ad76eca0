//! The seal: what an engine's file was when it was last closed, in a small file beside it.
//!
//! Neither engine looks over a file that was closed in order: redb trusts its pages then, and sled takes what it
//! cannot read in the midst of its log for the end of something. So a file is compared with its seal before an
//! engine sees it: length and CRC-32 of all its bytes. That also tells a file that has vanished, was emptied, or
//! was put back from an older copy. It takes one pass over the file at each start and each orderly end.
//!
//! Invariant: a seal says `closed` only while nobody has the file open. It is broken, and that is on the disk, before
//! the engine opens the file, and made anew after the engine has closed it. So after a crash it says `open`: then
//! the file is judged by the engine alone, which is ready for one that was cut off.

use std::fmt::Write as _;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{EngineKind, KvError};

/// The first line. All three are of one length: a seal is broken in place, which needs no room on the disk.
const OPEN: &str = "open   ";
const CLOSED: &str = "closed ";
const DAMAGED: &str = "damaged";

/// sled's own threads may hold its files a moment longer than its last handle.
const LINGER: Duration = Duration::from_secs(1);

/// The seal of the file, or folder, of an engine.
pub(crate) fn path(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".seal");
    PathBuf::from(path)
}

/// Fails if the file is not as it was left.
pub(super) fn verify(file: &Path) -> Result<(), KvError> {
    let seal = path(file);
    let text = match fs::read_to_string(&seal) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
        Err(error) => return Err(disk(&error)),
    };
    let (state, sums) = text.split_once('\n').unwrap_or_default();
    if ![OPEN, CLOSED, DAMAGED].contains(&state) {
        return Err(KvError::Damaged(format!(
            "its seal {} cannot be read",
            seal.display()
        )));
    }
    if is_missing(file) {
        return Err(KvError::Refused(format!(
            "{} has gone, or was emptied; restore it from a backup, or, if it is to begin anew, remove {}",
            file.display(),
            seal.display()
        )));
    }
    if state == DAMAGED {
        return Err(KvError::Damaged(sums.trim().to_owned()));
    }
    if state == CLOSED && summed(file).map_err(|error| disk(&error))? != sums {
        return Err(KvError::Damaged("it has changed since it was closed".to_owned()));
    }
    Ok(())
}

/// Says that the file is about to be opened.
pub(super) fn open(file: &Path) -> Result<(), KvError> {
    match File::options().write(true).open(path(file)) {
        Ok(seal) => seal
            .write_all_at(OPEN.as_bytes(), 0)
            .and_then(|()| seal.sync_data())
            .map_err(|error| disk(&error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(disk(&error)),
    }
}

/// Gives a file into which something was written for the first time its seal.
pub(super) fn begin(file: &Path) -> Result<(), KvError> {
    if path(file).exists() {
        return Ok(());
    }
    write(file, &format!("{OPEN}\n")).map_err(|error| disk(&error))
}

/// Seals a file that its engine has closed.
pub(super) fn close(kind: EngineKind, file: &Path) -> io::Result<()> {
    let _lock = match kind {
        EngineKind::Redb => None,
        EngineKind::Sled => Some(wait_for_sled(file)?),
    };
    write(file, &format!("{CLOSED}\n{}", summed(file)?))
}

/// Says that damage was met while the file was open.
pub(super) fn condemn(file: &Path, detail: &str) -> io::Result<()> {
    write(file, &format!("{DAMAGED}\n{detail}\n"))
}

/// Moves a seal along with its file.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if_there(fs::rename(path(from), path(to)))
}

/// Takes a seal away.
pub(crate) fn remove(file: &Path) -> io::Result<()> {
    if_there(fs::remove_file(path(file)))
}

/// Not every file has a seal.
fn if_there(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    let seal = path(file);
    let new = seal.with_extension("seal.new");
    let mut fresh = File::create(&new)?;
    fresh.write_all(text.as_bytes())?;
    fresh.sync_all()?;
    fs::rename(&new, &seal)?;
    match seal.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn is_missing(file: &Path) -> bool {
    let data = if file.is_dir() { &file.join("db") } else { file };
    fs::metadata(data).map_or(true, |found| found.len() == 0)
}

/// A line for each file: its CRC-32, its length, its name within the engine's folder.
fn summed(whole: &Path) -> io::Result<String> {
    let mut lines = String::new();
    for file in files(whole)? {
        let mut hasher = crc32fast::Hasher::new();
        let mut length = 0_u64;
        let mut content = File::open(&file)?;
        let mut piece = vec![0; 1 << 20];
        loop {
            let read = content.read(&mut piece)?;
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
            length += read as u64;
        }
        // A seal moves along with its file, whose own name therefore does not count.
        let name = file.strip_prefix(whole).unwrap_or(&file).to_string_lossy();
        // Writing to a text cannot fail.
        let _written = writeln!(lines, "{:08x} {length} {name}", hasher.finalize());
    }
    Ok(lines)
}

/// The files of an engine, in order.
pub(crate) fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in path.read_dir()? {
        found.extend(files(&entry?.path())?);
    }
    found.sort();
    Ok(found)
}

fn wait_for_sled(folder: &Path) -> io::Result<File> {
    let log = File::open(folder.join("db"))?;
    let patience = Instant::now() + LINGER;
    loop {
        match log.try_lock() {
            Ok(()) => return Ok(log),
            Err(TryLockError::WouldBlock) if Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn disk(error: &io::Error) -> KvError {
    KvError::Disk(error.to_string())
}

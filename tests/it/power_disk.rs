//! Disks whose power can be cut: files of a FUSE folder, to be loop-mounted as ext4.
//!
//! What the model has: a disk with a volatile write cache. A write reaches the cache; a flush (what ext4 sends
//! for fsync and for its journal) makes all that came before it stable. When the power is cut, every 4 KiB block
//! that was not flushed is kept or lost by chance, whatever the order in which it came. What stands only in the
//! system's page cache never reached the disk and is gone. The kernel's own ext4 decides what is written and
//! flushed when, and recovers its journal at the next mount.
//!
//! What it does not have: blocks torn inside, blocks that turn to garbage, disks that lie about a flush, and
//! machines whose memory writes nonsense while the voltage falls.
//!
//! From the cut on, writes and flushes hang; so nothing that needs the disk can be answered. Once the processes
//! on it are killed, [`Shelf::release`] lets them fail and end.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    WriteFlags,
};
use rand::RngExt;
use rand::rngs::StdRng;
use tempfile::TempDir;

/// A block is written whole or not at all.
const BLOCK: usize = 4_096;
const BYTES: usize = 128 << 20;
const FIRST_INODE: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    /// Writes and flushes hang.
    Cut,
    /// Writes and flushes fail.
    Gone,
}

/// What stands on a disk; blocks that two of them have in common are in memory once.
#[derive(Clone, Default)]
struct Content(BTreeMap<usize, Arc<[u8; BLOCK]>>);

impl Content {
    fn read(&self, from: usize, length: usize) -> Vec<u8> {
        let mut found = Vec::with_capacity(length);
        while found.len() < length {
            let (number, offset) = ((from + found.len()) / BLOCK, (from + found.len()) % BLOCK);
            let until = BLOCK.min(offset + length - found.len());
            match self.0.get(&number) {
                Some(block) => found.extend_from_slice(&block[offset..until]),
                None => found.resize(found.len() + until - offset, 0),
            }
        }
        found
    }

    fn write(&mut self, from: usize, data: &[u8]) {
        for (start, piece) in pieces(from, data) {
            let block = self
                .0
                .entry(start / BLOCK)
                .or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(block)[start % BLOCK..][..piece.len()].copy_from_slice(piece);
        }
    }
}

/// A write, cut where blocks end.
fn pieces(from: usize, data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let head = data.len().min((BLOCK - from % BLOCK) % BLOCK);
    let (first, rest) = data.split_at(head);
    let rest = rest.chunks(BLOCK).enumerate();
    let rest = rest.map(move |(number, piece)| (from + head + number * BLOCK, piece));
    std::iter::once((from, first)).chain(rest)
}

struct Disk {
    power: Power,
    /// As whoever reads it sees it.
    content: Content,
    /// As it was at the last flush.
    stable: Content,
    /// What was written since, in order.
    cached: Vec<(usize, Vec<u8>)>,
}

impl Disk {
    fn new(content: Content) -> Self {
        Self {
            power: Power::On,
            stable: content.clone(),
            content,
            cached: Vec::new(),
        }
    }
}

#[derive(Default)]
struct Disks {
    all: Mutex<Vec<Disk>>,
    switched: Condvar,
}

impl Disks {
    fn lock(&self) -> MutexGuard<'_, Vec<Disk>> {
        self.all.lock().expect("no panic while it was held")
    }

    /// Waits while the power of this disk is cut; `None` if it is gone, or if there is no such disk.
    fn powered<T>(&self, inode: INodeNo, call: impl FnOnce(&mut Disk) -> T) -> Option<T> {
        let index = usize::try_from(inode.0.checked_sub(FIRST_INODE)?).ok()?;
        let waits = |disks: &mut Vec<Disk>| disks.get(index).is_some_and(|disk| disk.power == Power::Cut);
        let mut disks = self.switched.wait_while(self.lock(), waits).expect("no panic");
        let disk = disks.get_mut(index).filter(|disk| disk.power == Power::On)?;
        Some(call(disk))
    }
}

fn attributes(inode: u64) -> FileAttr {
    let (kind, size) = match inode {
        1 => (FileType::Directory, 0),
        _ => (FileType::RegularFile, BYTES as u64),
    };
    FileAttr {
        ino: INodeNo(inode),
        size,
        blocks: size / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o700,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4_096,
        flags: 0,
    }
}

/// What the kernel talks to.
struct Folder(Arc<Disks>);

impl Filesystem for Folder {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = name.to_str().and_then(|name| name.parse::<usize>().ok());
        match number.filter(|number| *number < self.0.lock().len()) {
            Some(number) => reply.entry(
                &Duration::ZERO,
                &attributes(FIRST_INODE + number as u64),
                Generation(0),
            ),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &attributes(inode.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let disks = self.0.lock();
        let from = BYTES.min(offset as usize);
        let length = (size as usize).min(BYTES - from);
        reply.data(&disks[(inode.0 - FIRST_INODE) as usize].content.read(from, length));
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let from = offset as usize;
        let written = self.0.powered(inode, |disk| {
            disk.content.write(from, data);
            disk.cached.push((from, data.to_vec()));
        });
        match written {
            Some(()) => reply.written(data.len() as u32),
            None => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let flushed = self.0.powered(inode, |disk| {
            for (from, data) in disk.cached.drain(..) {
                disk.stable.write(from, &data);
            }
        });
        match flushed {
            Some(()) => reply.ok(),
            None => reply.error(Errno::EIO),
        }
    }
}

/// Where the disks are.
pub(crate) struct Shelf {
    disks: Arc<Disks>,
    folder: TempDir,
    session: Option<BackgroundSession>,
}

/// The number of a disk.
pub(crate) type DiskNumber = usize;

impl Shelf {
    /// `None`, and why, if this user may not mount.
    pub(crate) fn set_up() -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("folder");
        let disks = Arc::new(Disks::default());
        let session = fuser::spawn_mount(Folder(disks.clone()), folder.path(), &fuser::Config::default())
            .map_err(|error| format!("mounting FUSE: {error}"))?;
        let shelf = Self {
            disks,
            folder,
            session: Some(session),
        };
        // A loop device may be out of reach where FUSE is not.
        let place = tempfile::tempdir().expect("folder");
        let disk = shelf.formatted()?;
        Mounted::mount(&shelf, disk, place.path()).map(drop)?;
        Ok(shelf)
    }

    /// A new disk with an empty ext4.
    pub(crate) fn formatted(&self) -> Result<DiskNumber, String> {
        let number = self.add(Content::default());
        run(Command::new("mkfs.ext4")
            .args([
                "-q",
                "-F",
                "-b",
                "4096",
                "-E",
                "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
            ])
            .arg(self.path(number)))?;
        Ok(number)
    }

    fn add(&self, content: Content) -> DiskNumber {
        let mut disks = self.disks.lock();
        disks.push(Disk::new(content));
        disks.len() - 1
    }

    fn path(&self, number: DiskNumber) -> PathBuf {
        self.folder.path().join(number.to_string())
    }

    /// Cuts the power.
    pub(crate) fn cut(&self, number: DiskNumber) {
        self.disks.lock()[number].power = Power::Cut;
    }

    /// Lets fail what hangs since the power was cut.
    pub(crate) fn release(&self, number: DiskNumber) {
        self.disks.lock()[number].power = Power::Gone;
        self.disks.switched.notify_all();
    }

    /// What the power cut left: all that was flushed, and of each block that was not, its last content with
    /// this probability.
    pub(crate) fn image(&self, number: DiskNumber, kept: f64, random: &mut StdRng) -> DiskNumber {
        let image = {
            let disks = self.disks.lock();
            let disk = &disks[number];
            assert_ne!(disk.power, Power::On, "the power is still on");
            let mut image = disk.stable.clone();
            for (from, data) in &disk.cached {
                for (from, piece) in pieces(*from, data) {
                    if random.random_bool(kept) {
                        image.write(from, piece);
                    }
                }
            }
            image
        };
        self.add(image)
    }

    /// Takes a disk away for good; its number stays taken.
    pub(crate) fn scrap(&self, number: DiskNumber) {
        let mut disks = self.disks.lock();
        disks[number] = Disk::new(Content::default());
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            eprintln!("the disks cannot be unmounted: {error}");
        }
    }
}

/// A disk that is mounted; unmounted when it is dropped.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn mount(shelf: &Shelf, disk: DiskNumber, at: &Path) -> Result<Self, String> {
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", "loop"])
            .arg(shelf.path(disk))
            .arg(at))?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A test that failed leaves processes on it.
            let _status = run(Command::new("umount").arg("-l").arg(&self.0));
            return;
        }
        // sled's own threads hold its files for a moment after it was closed.
        let patience = Instant::now() + Duration::from_secs(10);
        while let Err(error) = run(Command::new("umount").arg(&self.0)) {
            assert!(Instant::now() < patience, "{error}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = format!("{command:?}");
    let ended = command.stdin(Stdio::null()).output();
    let ended = ended.map_err(|error| format!("{name}: {error}"))?;
    if ended.status.success() {
        return Ok(());
    }
    Err(format!(
        "{name}: {}",
        String::from_utf8_lossy(&ended.stderr).trim()
    ))
}

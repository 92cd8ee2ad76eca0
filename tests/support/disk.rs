//! A small disk of a test's own, which can be full: a tmpfs. Mounting one takes root.

use std::path::Path;
use std::process::{Command, Stdio};

/// It goes away with the value.
pub(crate) struct SmallDisk {
    folder: tempfile::TempDir,
    size: u64,
    /// What is left when it is full.
    spare: u64,
}

impl SmallDisk {
    /// A disk of so many bytes; `None` without root.
    pub(crate) fn mount(size: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("folder");
        let disk = Self {
            folder,
            size,
            spare: 0,
        };
        disk.mounted(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .then_some(disk)
    }

    /// The same, but so many bytes are left when it is full.
    #[allow(dead_code, reason = "not every test binary fills it this way")]
    pub(crate) fn leaving(mut self, spare: u64) -> Self {
        self.spare = spare;
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// From now on there is no more space than what is used, but for the spare.
    #[allow(dead_code, reason = "not every test binary fills it this way")]
    pub(crate) fn fill(&self) {
        // Whoever writes meanwhile makes it too small for what it holds, which is refused.
        while !self.mounted(&["-o", &format!("remount,size={}", self.used() + self.spare)]) {}
    }

    /// There is space again.
    #[allow(dead_code, reason = "not every test binary fills it this way")]
    pub(crate) fn free(&self) {
        assert!(self.mounted(&["-o", &format!("remount,size={}", self.size)]));
    }

    fn used(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.path()).expect("is mounted");
        // Not zero, which would stand for "no limit".
        ((disk.f_blocks - disk.f_bfree) * disk.f_frsize).max(4_096)
    }

    fn mounted(&self, words: &[&str]) -> bool {
        let mut mount = Command::new("mount");
        let mount = mount.args(words).arg(self.path()).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, in case a process that is being killed still has it open.
        let mut umount = Command::new("umount");
        let _status = umount.arg("-l").arg(self.path()).stderr(Stdio::null()).status();
    }
}

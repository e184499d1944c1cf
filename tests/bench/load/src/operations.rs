//! The operations that are timed: through a daemon, and the same system calls directly.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use crate::driver::{Driver, Request};
use crate::fuse::{self, ask, handle_of, nodeid_of, ROOT};
use crate::monitor::checked;

pub const FILE_BYTES: u64 = 64 << 20;
pub const DIRECTORY_ENTRIES: usize = 1000;
const LISTING_BYTES: usize = 32 << 10;

/// Name, and whether several may be in flight at once.
pub const OPERATIONS: &[(&str, bool)] = &[
    ("getattr", true),
    ("lookup", false),
    ("lookup-missing", false),
    ("open-release", false),
    ("create-unlink-forget", false),
    ("mkdir-rmdir-forget", false),
    ("rename-and-back", false),
    ("readdirplus-1000", false),
    ("read-4k", true),
    ("read-128k", false),
    ("read-1m", false),
    ("write-4k", true),
    ("write-1m", false),
    ("small-file", false),
];

/// Fills *share* with what the operations need.
pub fn prepare(share: &Path) -> io::Result<()> {
    std::fs::write(share.join("data"), vec![7; FILE_BYTES as usize])?;
    std::fs::write(share.join("small"), vec![7; 4096])?;
    std::fs::write(share.join("name-a"), b"")?;
    std::fs::create_dir_all(share.join("many"))?;
    for index in 0..DIRECTORY_ENTRIES {
        std::fs::write(share.join("many").join(format!("entry-{index:04}")), b"")?;
    }
    Ok(())
}

/// Random enough, the same in every run.
struct Offsets(u64);

impl Offsets {
    fn next(&mut self, step: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % (FILE_BYTES / step) * step
    }
}

/// Something that can do one operation at a time.
pub trait Target {
    fn once(&mut self, operation: &str) -> io::Result<()>;
}

pub struct Daemon {
    driver: Driver,
    data: u64,
    data_fh: u64,
    many: u64,
    offsets: Offsets,
}

impl Daemon {
    pub fn new(socket: &Path, depth: usize) -> io::Result<Self> {
        let mut driver = Driver::connect(socket, Driver::memory(depth)?)?;
        ask(&mut driver, &fuse::init())?;
        let data = nodeid_of(&mut driver, &fuse::lookup(ROOT, "data"))?;
        let data_fh = handle_of(&mut driver, &fuse::open(data))?;
        let many = nodeid_of(&mut driver, &fuse::lookup(ROOT, "many"))?;
        Ok(Self { driver, data, data_fh, many, offsets: Offsets(1) })
    }

    /// Keeps *depth* requests of one kind in flight until *go* says stop; returns how many were answered.
    pub fn flood(&mut self, operation: &str, depth: usize, mut go: impl FnMut() -> bool) -> io::Result<u64> {
        for slot in 0..depth {
            let request = self.independent(operation);
            self.driver.submit(slot, &request);
        }
        self.driver.kick(depth as u16);
        let (mut answered, mut in_flight) = (0u64, depth);
        let mut free = Vec::new();
        while in_flight > 0 {
            free.clear();
            in_flight -= self.driver.wait(|slot| free.push(slot))?;
            answered += free.len() as u64;
            if go() {
                for slot in &free {
                    let request = self.independent(operation);
                    self.driver.submit(*slot, &request);
                }
                in_flight += free.len();
                self.driver.kick(free.len() as u16);
            }
        }
        Ok(answered)
    }

    fn independent(&mut self, operation: &str) -> Request {
        match operation {
            "read-4k" => fuse::read(self.data, self.data_fh, self.offsets.next(4096), 4096),
            "write-4k" => fuse::write(self.data, self.data_fh, self.offsets.next(4096), 4096),
            _ => fuse::getattr(self.data),
        }
    }

    fn transfer(&mut self, write: bool, size: usize) -> io::Result<()> {
        let offset = self.offsets.next(size as u64);
        let make = if write { fuse::write } else { fuse::read };
        let request = make(self.data, self.data_fh, offset, size);
        ask(&mut self.driver, &request).map(drop)
    }

    fn list(&mut self) -> io::Result<()> {
        let fh = handle_of(&mut self.driver, &fuse::opendir(self.many))?;
        let mut offset = 0;
        loop {
            let request = fuse::readdirplus(self.many, fh, offset, LISTING_BYTES);
            ask(&mut self.driver, &request)?;
            let (_, length) = self.driver.answer_header(0);
            if length <= 16 {
                break;
            }
            offset = self.driver.last_offset(length - 16);
        }
        ask(&mut self.driver, &fuse::releasedir(self.many, fh)).map(drop)
    }
}

impl Target for Daemon {
    fn once(&mut self, operation: &str) -> io::Result<()> {
        let driver = &mut self.driver;
        match operation {
            "getattr" => ask(driver, &fuse::getattr(self.data)).map(drop),
            "lookup" => ask(driver, &fuse::lookup(ROOT, "data")).map(drop),
            "lookup-missing" => driver.ask(&fuse::lookup(ROOT, "not-there")).map(drop),
            "open-release" => {
                let fh = handle_of(driver, &fuse::open(self.data))?;
                ask(driver, &fuse::release(self.data, fh)).map(drop)
            }
            "create-unlink-forget" => {
                let (node, fh) = fuse::created(driver, ROOT, "created")?;
                ask(driver, &fuse::release(node, fh))?;
                ask(driver, &fuse::unlink(ROOT, "created"))?;
                fuse::forget(driver, node)
            }
            "mkdir-rmdir-forget" => {
                let node = nodeid_of(driver, &fuse::mkdir(ROOT, "made"))?;
                ask(driver, &fuse::rmdir(ROOT, "made"))?;
                fuse::forget(driver, node)
            }
            "rename-and-back" => {
                ask(driver, &fuse::rename(ROOT, "name-a", "name-b"))?;
                ask(driver, &fuse::rename(ROOT, "name-b", "name-a")).map(drop)
            }
            "readdirplus-1000" => self.list(),
            "read-4k" => self.transfer(false, 4 << 10),
            "read-128k" => self.transfer(false, 128 << 10),
            "read-1m" => self.transfer(false, 1 << 20),
            "write-4k" => self.transfer(true, 4 << 10),
            "write-1m" => self.transfer(true, 1 << 20),
            "small-file" => {
                let node = nodeid_of(driver, &fuse::lookup(ROOT, "small"))?;
                let fh = handle_of(driver, &fuse::open(node))?;
                ask(driver, &fuse::read(node, fh, 0, 4096))?;
                ask(driver, &fuse::flush(node, fh))?;
                ask(driver, &fuse::release(node, fh)).map(drop)
            }
            other => Err(io::Error::other(format!("no operation {other}"))),
        }
    }
}

/// The same system calls from this process.
pub struct Native {
    share: OwnedFd,
    data: OwnedFd,
    buffer: Vec<u8>,
    offsets: Offsets,
}

impl Native {
    pub fn new(share: &Path) -> io::Result<Self> {
        let data = std::fs::File::options().read(true).write(true).open(share.join("data"))?.into();
        let share = std::fs::File::open(share)?.into();
        Ok(Self { share, data, buffer: vec![7; 1 << 20], offsets: Offsets(1) })
    }

    fn status(&self, name: &CStr) -> i32 {
        // SAFETY: all-zero is a valid stat buffer; the call writes no more than one.
        unsafe {
            let mut status: libc::stat = std::mem::zeroed();
            libc::fstatat(self.share.as_raw_fd(), name.as_ptr(), &raw mut status, libc::AT_EMPTY_PATH)
        }
    }

    fn open(&self, name: &CStr, flags: i32) -> io::Result<i32> {
        // SAFETY: a plain call with a live string.
        checked(unsafe { libc::openat(self.share.as_raw_fd(), name.as_ptr(), flags | libc::O_CLOEXEC, 0o644) })
    }

    fn transfer(&mut self, write: bool, size: usize) -> io::Result<()> {
        let (fd, offset) = (self.data.as_raw_fd(), self.offsets.next(size as u64) as i64);
        let buffer = self.buffer.as_mut_ptr();
        // SAFETY: the buffer holds a MiB, the largest size in use.
        let done = unsafe {
            if write {
                libc::pwrite(fd, buffer.cast(), size, offset)
            } else {
                libc::pread(fd, buffer.cast(), size, offset)
            }
        };
        if done == size as isize {
            return Ok(());
        }
        Err(io::Error::last_os_error())
    }

    fn list(&mut self) -> io::Result<()> {
        let fd = self.open(c"many", libc::O_RDONLY | libc::O_DIRECTORY)?;
        loop {
            // SAFETY: the buffer is larger than the size given.
            let bytes = unsafe { libc::syscall(libc::SYS_getdents64, fd, self.buffer.as_mut_ptr(), LISTING_BYTES) };
            if bytes <= 0 {
                break;
            }
            let mut at = 0usize;
            while at < bytes as usize {
                let record = usize::from(u16::from_le_bytes([self.buffer[at + 16], self.buffer[at + 17]]));
                let name = CStr::from_bytes_until_nul(&self.buffer[at + 19..at + record]).map_err(io::Error::other)?;
                // SAFETY: all-zero is a valid stat buffer; the name ends in the record.
                unsafe {
                    let mut status: libc::stat = std::mem::zeroed();
                    libc::fstatat(fd, name.as_ptr(), &raw mut status, libc::AT_SYMLINK_NOFOLLOW);
                }
                at += record;
            }
        }
        // SAFETY: our own descriptor.
        unsafe { libc::close(fd) };
        Ok(())
    }
}

impl Target for Native {
    fn once(&mut self, operation: &str) -> io::Result<()> {
        let at = self.share.as_raw_fd();
        match operation {
            "getattr" => {
                // SAFETY: all-zero is a valid stat buffer; our own descriptor.
                unsafe {
                    let mut status: libc::stat = std::mem::zeroed();
                    libc::fstat(self.data.as_raw_fd(), &raw mut status);
                }
            }
            "lookup" => drop(self.status(c"data")),
            "lookup-missing" => drop(self.status(c"not-there")),
            "open-release" => {
                let fd = self.open(c"data", libc::O_RDWR)?;
                // SAFETY: just opened.
                unsafe { libc::close(fd) };
            }
            "create-unlink-forget" => {
                let fd = self.open(c"created", libc::O_RDWR | libc::O_CREAT | libc::O_EXCL)?;
                // SAFETY: just opened; a live string.
                unsafe {
                    libc::close(fd);
                    libc::unlinkat(at, c"created".as_ptr(), 0);
                }
            }
            // SAFETY: live strings, our own descriptor.
            "mkdir-rmdir-forget" => unsafe {
                libc::mkdirat(at, c"made".as_ptr(), 0o755);
                libc::unlinkat(at, c"made".as_ptr(), libc::AT_REMOVEDIR);
            },
            "rename-and-back" => {
                for (from, to) in [(c"name-a", c"name-b"), (c"name-b", c"name-a")] {
                    // SAFETY: live strings, our own descriptor.
                    checked(unsafe { libc::renameat(at, from.as_ptr(), at, to.as_ptr()) })?;
                }
            }
            "readdirplus-1000" => self.list()?,
            "read-4k" => self.transfer(false, 4 << 10)?,
            "read-128k" => self.transfer(false, 128 << 10)?,
            "read-1m" => self.transfer(false, 1 << 20)?,
            "write-4k" => self.transfer(true, 4 << 10)?,
            "write-1m" => self.transfer(true, 1 << 20)?,
            "small-file" => {
                self.status(c"small");
                let fd = self.open(c"small", libc::O_RDWR)?;
                // SAFETY: just opened; the buffer holds a MiB.
                unsafe {
                    libc::pread(fd, self.buffer.as_mut_ptr().cast(), 4096, 0);
                    libc::close(fd);
                }
            }
            other => return Err(io::Error::other(format!("no operation {other}"))),
        }
        Ok(())
    }
}

//! The descriptors a worker starts with: fixed numbers, each checked for its kind (ipc/README.md).
//!
//! A plainly opened directory in place of a detached mount would let ".." climb out of the share (I2), a memfd that
//! can shrink would let one process end another with SIGBUS: so kinds and seals are checked, not only presence.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{
    fcntl_get_seals, fcntl_getfl, fstat, fstatfs, statx, AtFlags, FileType, OFlags, SealFlags, StatxFlags,
};
use rustix::io::Errno;
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

pub const LOG: RawFd = 2;
pub const CONTROL: RawFd = 3;
pub const CONFIGURATION: RawFd = 4;
pub const STATISTICS: RawFd = 5;
pub const ARENA: RawFd = 6;
pub const SHARE: RawFd = 7;
pub const PROC: RawFd = 8;

const FIXED_SIZE: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW);
const FROZEN: SealFlags = FIXED_SIZE.union(SealFlags::WRITE);
const PROC_MAGIC: i64 = 0x9fa0;
const ATTRIBUTE_MOUNT_ROOT: u64 = 0x2000;

/// One descriptor that is not what the contract says.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    descriptor: RawFd,
    wanted: &'static str,
    errno: Option<Errno>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "descriptor {} should be {}", self.descriptor, self.wanted)?;
        match self.errno {
            Some(errno) => write!(f, ": {errno}"),
            None => write!(f, ", and is something else"),
        }
    }
}

impl std::error::Error for Refused {}

/// The descriptors the worker owns after the check.
#[derive(Debug)]
pub struct Inherited {
    pub control: OwnedFd,
    pub configuration: OwnedFd,
    pub statistics: OwnedFd,
    pub arena: OwnedFd,
    pub share: OwnedFd,
    pub proc: OwnedFd,
}

impl Inherited {
    /// Checks all of them and takes ownership.
    ///
    /// # Safety
    /// To be called once per process, before anything else opens or owns a descriptor.
    pub unsafe fn take() -> Result<Self, Refused> {
        check(0, "/dev/null", null)?;
        check(1, "/dev/null", null)?;
        check(LOG, "a non-blocking pipe", log_pipe)?;
        check(CONTROL, "a SOCK_SEQPACKET socket", control_socket)?;
        check(CONFIGURATION, "a memfd sealed against everything", is_frozen)?;
        check(STATISTICS, "a memfd of fixed size", |fd| sealed(fd, FIXED_SIZE))?;
        check(ARENA, "a memfd of fixed size", |fd| sealed(fd, FIXED_SIZE))?;
        check(SHARE, "an O_PATH directory", path_directory)?;
        // syscall fstatfs: is it procfs?
        check(
            PROC,
            "an O_PATH directory of procfs",
            |fd| Ok(path_directory(fd)? && fstatfs(fd)?.f_type == PROC_MAGIC),
        )?;
        // SAFETY: each number was just found open, and the caller promises that nobody else owns it.
        let own = |descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self {
            control: own(CONTROL),
            configuration: own(CONFIGURATION),
            statistics: own(STATISTICS),
            arena: own(ARENA),
            share: own(SHARE),
            proc: own(PROC),
        })
    }
}

impl Inherited {
    /// Checks that nothing leads up from the two directories: each must be the root of a mount of its own.
    ///
    /// Not so for a jail without a mount namespace, whose configuration says `attributes` `"open"`.
    pub fn check_mounts(&self) -> Result<(), Refused> {
        check(self.share.as_raw_fd(), "the root of a mount of its own", mount_root)?;
        check(self.proc.as_raw_fd(), "the root of a procfs mount of its own", mount_root)
    }
}

type Judge = fn(BorrowedFd<'_>) -> Result<bool, Errno>;

fn check(descriptor: RawFd, wanted: &'static str, is_wanted: Judge) -> Result<(), Refused> {
    // SAFETY: borrowed for the calls below only; on a number that is not open they answer EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    match is_wanted(borrowed) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refused { descriptor, wanted, errno: None }),
        Err(errno) => Err(Refused { descriptor, wanted, errno: Some(errno) }),
    }
}

fn null(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    // syscall fstat: the kind of an inherited or received descriptor
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::CharacterDevice)
}

fn log_pipe(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let pipe = FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Fifo;
    // syscall fcntl: flags and seals of inherited descriptors
    Ok(pipe && fcntl_getfl(fd)?.contains(OFlags::NONBLOCK))
}

fn control_socket(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    // syscall getsockopt: the kind of an inherited or received socket
    Ok(socket_domain(fd)? == AddressFamily::UNIX && socket_type(fd)? == SocketType::SEQPACKET)
}

/// Whether nothing about a memfd can change any more.
pub fn is_frozen(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    sealed(fd, FROZEN)
}

fn sealed(fd: BorrowedFd<'_>, seals: SealFlags) -> Result<bool, Errno> {
    Ok(fcntl_get_seals(fd)?.contains(seals))
}

fn path_directory(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let directory = FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory;
    Ok(directory && fcntl_getfl(fd)?.contains(OFlags::PATH))
}

fn mount_root(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    // syscall statx: is this the root of its own mount?
    let found = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    Ok(found.stx_attributes.bits() & found.stx_attributes_mask.bits() & ATTRIBUTE_MOUNT_ROOT != 0)
}

//! The host's file system calls: thin, one wrapper each, failures as error numbers.
//!
//! Every name that reaches this module is a single component (see `name.rs`) or a fixed `self/fd/N`. Calls that open
//! go through `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS`, so that a link put in
//! place of a directory leads nowhere.

use std::ffi::CStr;
use std::io::Write;
use std::mem::{size_of, zeroed, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::failure::Errno;

type Result<T> = std::result::Result<T, Errno>;

/// Bit of `statx`'s mask for ids that are never reused (Linux 6.8); older kernels ignore it and fill `STATX_MNT_ID`.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
const STATX_MASK: u32 = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_MNT_ID | STATX_MNT_ID_UNIQUE;
/// Flag of `name_to_handle_at` (Linux 6.5): bytes that only identify, which more file systems can give.
const AT_HANDLE_FID: i32 = 0x200;
/// Type of the bytes made up for file systems without handles of their own: the inode number again, and a generation
/// that such file systems do not count.
const FILEID_INO64_GEN: i32 = 0x81;
const MAX_HANDLE_BYTES: usize = 128;
const RESOLVE: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_SYMLINKS;

fn checked(result: i64) -> Result<usize> {
    usize::try_from(result).map_err(|_| Errno::last())
}

fn checked_int(result: i32) -> Result<()> {
    checked(i64::from(result)).map(drop)
}

fn owned(result: i64) -> Result<OwnedFd> {
    let fd = checked(result)?;
    // SAFETY: the kernel has just made this descriptor for the caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attributes of `name` in `dir`, without following it.
pub fn statx_name(dir: BorrowedFd<'_>, name: &CStr) -> Result<libc::statx> {
    // syscall statx: LOOKUP, GETATTR and READDIRPLUS by name
    statx(dir, name, libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT)
}

/// Attributes of an open or O_PATH descriptor.
pub fn statx_fd(fd: BorrowedFd<'_>) -> Result<libc::statx> {
    // syscall statx: the identity check of whatever was just opened
    statx(fd, c"", libc::AT_EMPTY_PATH)
}

fn statx(dir: BorrowedFd<'_>, name: &CStr, flags: i32) -> Result<libc::statx> {
    let mut stat = MaybeUninit::uninit();
    // Not libc::statx: the standard library names that function weakly, link-time optimisation merges the two names,
    // and a static link then leaves it null. The same holds for copy_file_range below.
    // SAFETY: name is NUL-terminated, stat is as large as the kernel writes.
    checked(unsafe {
        libc::syscall(libc::SYS_statx, dir.as_raw_fd(), name.as_ptr(), flags, STATX_MASK, stat.as_mut_ptr())
    })?;
    // SAFETY: statx succeeded and filled it.
    Ok(unsafe { stat.assume_init() })
}

/// Opens one component below `dir`; *flags* decide what for, links and mounts upwards are never taken.
pub fn open_below(dir: BorrowedFd<'_>, name: &CStr, flags: i32, mode: u32) -> Result<OwnedFd> {
    // SAFETY: open_how is plain integers, for which zero is valid.
    let mut how: libc::open_how = unsafe { zeroed() };
    how.flags = (flags | libc::O_NOFOLLOW | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = RESOLVE;
    // syscall openat2: every open by name
    // SAFETY: name is NUL-terminated, how has the size that is passed.
    owned(unsafe {
        libc::syscall(libc::SYS_openat2, dir.as_raw_fd(), name.as_ptr(), &raw const how, size_of::<libc::open_how>())
    })
}

/// Opens what `fd` refers to once more, with other *flags*, through the procfs mount `proc`.
pub fn reopen(proc: BorrowedFd<'_>, fd: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd> {
    let link = FdLink::of(fd);
    // syscall openat: data access to what an O_PATH descriptor holds, through self/fd
    // SAFETY: the link is NUL-terminated.
    owned(i64::from(unsafe { libc::openat(proc.as_raw_fd(), link.as_ptr(), flags | libc::O_CLOEXEC) }))
}

/// `self/fd/N`, relative to the root of a procfs mount.
pub struct FdLink {
    bytes: [u8; 24],
}

impl FdLink {
    pub fn of(fd: BorrowedFd<'_>) -> Self {
        let mut bytes = [0; 24];
        // The longest is "self/fd/2147483647": the buffer cannot be too short.
        let _ = write!(&mut bytes[..23], "self/fd/{}", fd.as_raw_fd());
        Self { bytes }
    }

    pub fn as_ptr(&self) -> *const libc::c_char {
        self.bytes.as_ptr().cast()
    }
}

/// Bytes that tell an inode from every other the file system ever had: handle type and handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHandle {
    bytes: [u8; MAX_HANDLE_BYTES + 4],
    length: usize,
}

impl FileHandle {
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// The file handle of `name` in `dir`, or of `dir` itself where *name* is empty. EOPNOTSUPP where there are none.
pub fn file_handle(dir: BorrowedFd<'_>, name: &CStr) -> Result<FileHandle> {
    #[repr(C)]
    struct Raw {
        bytes: u32,
        kind: i32,
        data: [u8; MAX_HANDLE_BYTES],
    }
    let empty = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    let ask = |flags: i32| {
        let mut raw = Raw { bytes: MAX_HANDLE_BYTES as u32, kind: 0, data: [0; MAX_HANDLE_BYTES] };
        let mut mount = 0i32;
        // syscall name_to_handle_at: telling apart inodes whose number and birth time repeat
        // SAFETY: raw has the layout of struct file_handle with room for the bytes it announces.
        checked(unsafe {
            let (raw, mount) = (&raw mut raw, &raw mut mount);
            libc::syscall(libc::SYS_name_to_handle_at, dir.as_raw_fd(), name.as_ptr(), raw, mount, flags | empty)
        })?;
        Ok(raw)
    };
    let raw = match ask(0) {
        Err(Errno(libc::EOPNOTSUPP)) => match ask(AT_HANDLE_FID) {
            Ok(raw) if raw.kind == FILEID_INO64_GEN => Err(Errno(libc::EOPNOTSUPP)),
            other => other,
        },
        other => other,
    };
    let raw = match raw {
        Err(Errno(libc::EINVAL | libc::EOVERFLOW)) => Err(Errno(libc::EOPNOTSUPP)),
        other => other,
    }?;
    let mut handle =
        FileHandle { bytes: [0; MAX_HANDLE_BYTES + 4], length: 4 + (raw.bytes as usize).min(MAX_HANDLE_BYTES) };
    let source = raw.kind.to_le_bytes().into_iter().chain(raw.data);
    for (target, byte) in handle.bytes.iter_mut().zip(source).take(handle.length) {
        *target = byte;
    }
    Ok(handle)
}

/// Target of the symbolic link that the `O_PATH` descriptor holds.
pub fn read_link(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    // syscall readlinkat: READLINK
    // SAFETY: the empty name is NUL-terminated, the kernel writes at most the given length.
    let count = unsafe { libc::readlinkat(fd.as_raw_fd(), c"".as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    checked(count as i64)
}

/// Reads into *iovecs* at *offset*.
///
/// # Safety
/// Every range must be writable memory that no Rust reference covers.
pub unsafe fn read_vectored(fd: BorrowedFd<'_>, iovecs: &[libc::iovec], offset: i64) -> Result<usize> {
    // syscall preadv2: READ straight into guest memory
    // SAFETY: the caller vouches for the ranges; the count is the slice's.
    checked(unsafe { libc::preadv2(fd.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32, offset, 0) } as i64)
}

/// Writes *iovecs* at *offset*, or at the end with `RWF_APPEND` in *flags*.
///
/// # Safety
/// Every range must be readable memory.
pub unsafe fn write_vectored(fd: BorrowedFd<'_>, iovecs: &[libc::iovec], offset: i64, flags: i32) -> Result<usize> {
    // syscall pwritev2: WRITE straight from guest memory
    // SAFETY: the caller vouches for the ranges; the count is the slice's.
    checked(unsafe { libc::pwritev2(fd.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32, offset, flags) } as i64)
}

/// Fills *buffer* with raw directory entries from the descriptor's position on.
pub fn getdents(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    // syscall getdents64: READDIR and READDIRPLUS
    // SAFETY: the kernel writes at most the given length.
    checked(unsafe { libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) })
}

pub fn seek(fd: BorrowedFd<'_>, offset: i64, whence: i32) -> Result<u64> {
    // syscall lseek: READDIR from a cookie, LSEEK for data and holes
    // SAFETY: no memory is passed.
    let position = unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) };
    u64::try_from(position).map_err(|_| Errno::last())
}

pub fn statfs(fd: BorrowedFd<'_>) -> Result<libc::statvfs> {
    let mut stat = MaybeUninit::uninit();
    // syscall fstatfs: STATFS
    // SAFETY: stat is as large as fstatvfs writes.
    checked_int(unsafe { libc::fstatvfs(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstatvfs succeeded and filled it.
    Ok(unsafe { stat.assume_init() })
}

/// Closes a duplicate of *fd*, which is how a file system is made to report delayed write errors.
pub fn flush(fd: BorrowedFd<'_>) -> Result<()> {
    // syscall fcntl: FLUSH duplicates the descriptor (F_DUPFD_CLOEXEC)
    // SAFETY: no memory is passed.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
    checked_int(copy)?;
    // syscall close: FLUSH closes the duplicate; RELEASE and FORGET close for good
    // SAFETY: the duplicate was made above and is owned by nobody else.
    checked_int(unsafe { libc::close(copy) })
}

pub fn sync(fd: BorrowedFd<'_>, data_only: bool) -> Result<()> {
    checked_int(if data_only {
        // syscall fdatasync: FSYNC with the datasync flag
        // SAFETY: no memory is passed.
        unsafe { libc::fdatasync(fd.as_raw_fd()) }
    } else {
        // syscall fsync: FSYNC, FSYNCDIR
        // SAFETY: no memory is passed.
        unsafe { libc::fsync(fd.as_raw_fd()) }
    })
}

pub fn truncate(fd: BorrowedFd<'_>, size: i64) -> Result<()> {
    // syscall ftruncate: SETATTR of the size, O_TRUNC after the identity check
    // SAFETY: no memory is passed.
    checked_int(unsafe { libc::ftruncate(fd.as_raw_fd(), size) })
}

/// Seconds and nanoseconds of the coarse real-time clock, the one that birth times are taken from.
pub fn now() -> (i64, u32) {
    // SAFETY: timespec is plain integers, for which zero is valid.
    let mut time: libc::timespec = unsafe { zeroed() };
    // syscall clock_gettime: is a file younger than its birth time can tell (vDSO where there is one)
    // SAFETY: time is as large as the kernel writes. It cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut time) };
    (time.tv_sec, time.tv_nsec as u32)
}

/// The soft limit of open descriptors.
pub fn descriptor_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // syscall prlimit64: the descriptor budget, once at start
    // SAFETY: limit is as large as the kernel writes.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

/// Lets the mode of a request arrive as it was sent: the guest has applied its caller's umask already.
pub fn clear_umask() {
    // syscall umask: once at start
    // SAFETY: no memory is passed.
    unsafe { libc::umask(0) };
}

pub fn make_directory(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    // syscall mkdirat: MKDIR
    // SAFETY: name is NUL-terminated.
    checked_int(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) })
}

/// *mode* holds the file type as well.
pub fn make_node(dir: BorrowedFd<'_>, name: &CStr, mode: u32, device: libc::dev_t) -> Result<()> {
    // syscall mknodat: MKNOD of files, FIFOs, sockets and, where the jail allows them, devices
    // SAFETY: name is NUL-terminated.
    checked_int(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, device) })
}

/// *target* is any text: only the guest ever resolves it.
pub fn make_symlink(target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    // syscall symlinkat: SYMLINK
    // SAFETY: both strings are NUL-terminated.
    checked_int(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) })
}

/// Gives what *fd* refers to one more name. Through procfs, since an empty path would need CAP_DAC_READ_SEARCH.
pub fn make_link(proc: BorrowedFd<'_>, fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let link = FdLink::of(fd);
    // syscall linkat: LINK
    // SAFETY: both strings are NUL-terminated.
    checked_int(unsafe {
        let (from, to) = (proc.as_raw_fd(), dir.as_raw_fd());
        libc::linkat(from, link.as_ptr(), to, name.as_ptr(), libc::AT_SYMLINK_FOLLOW)
    })
}

pub fn remove(dir: BorrowedFd<'_>, name: &CStr, is_directory: bool) -> Result<()> {
    let flags = if is_directory { libc::AT_REMOVEDIR } else { 0 };
    // syscall unlinkat: UNLINK, RMDIR
    // SAFETY: name is NUL-terminated.
    checked_int(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), flags) })
}

pub fn rename(from: BorrowedFd<'_>, old: &CStr, to: BorrowedFd<'_>, new: &CStr, flags: u32) -> Result<()> {
    // syscall renameat2: RENAME, RENAME2
    // SAFETY: both names are NUL-terminated.
    checked(unsafe {
        libc::syscall(libc::SYS_renameat2, from.as_raw_fd(), old.as_ptr(), to.as_raw_fd(), new.as_ptr(), flags)
    })
    .map(drop)
}

/// An id of `u32::MAX` stays as it is.
pub fn set_owner(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
    // syscall fchownat: SETATTR of the owner
    // SAFETY: the empty path is NUL-terminated.
    checked_int(unsafe { libc::fchownat(fd.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) })
}

/// As [`set_owner`], of a file that is open for data.
pub fn set_owner_of_open(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
    // syscall fchown: SETATTR of the owner where there are no mounts
    // SAFETY: no memory is passed.
    checked_int(unsafe { libc::fchown(fd.as_raw_fd(), uid, gid) })
}

/// Through procfs, since `fchmod` refuses `O_PATH` descriptors and `fchmodat2` is newer than Linux 6.1.
pub fn set_mode(proc: BorrowedFd<'_>, fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    let link = FdLink::of(fd);
    // syscall fchmodat: SETATTR of the mode
    // SAFETY: the link is NUL-terminated.
    checked_int(unsafe { libc::fchmodat(proc.as_raw_fd(), link.as_ptr(), mode, 0) })
}

/// As [`set_mode`], of a file that is open for data.
pub fn set_mode_of_open(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    // syscall fchmod: SETATTR of the mode where there are no mounts
    // SAFETY: no memory is passed.
    checked_int(unsafe { libc::fchmod(fd.as_raw_fd(), mode) })
}

/// Access and modification time, each possibly `UTIME_NOW` or `UTIME_OMIT`.
pub fn set_times(fd: BorrowedFd<'_>, times: &[libc::timespec; 2]) -> Result<()> {
    // syscall utimensat: SETATTR of the times
    // SAFETY: the empty path is NUL-terminated, times holds two entries.
    checked_int(unsafe { libc::utimensat(fd.as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH) })
}

/// As [`set_times`], of a file that is open for data.
pub fn set_times_of_open(fd: BorrowedFd<'_>, times: &[libc::timespec; 2]) -> Result<()> {
    // syscall utimensat: SETATTR of the times where there are no mounts, without a path
    // SAFETY: times holds two entries.
    checked_int(unsafe { libc::futimens(fd.as_raw_fd(), times.as_ptr()) })
}

pub fn allocate(fd: BorrowedFd<'_>, mode: i32, offset: i64, length: i64) -> Result<()> {
    // syscall fallocate: FALLOCATE
    // SAFETY: no memory is passed.
    checked_int(unsafe { libc::fallocate(fd.as_raw_fd(), mode, offset, length) })
}

pub fn copy(
    from: BorrowedFd<'_>,
    mut offset: i64,
    to: BorrowedFd<'_>,
    mut target: i64,
    length: usize,
) -> Result<usize> {
    // syscall copy_file_range: COPY_FILE_RANGE
    // SAFETY: the kernel reads and writes the two offsets, which live on this stack.
    checked(unsafe {
        let (offset, target) = (&raw mut offset, &raw mut target);
        libc::syscall(libc::SYS_copy_file_range, from.as_raw_fd(), offset, to.as_raw_fd(), target, length, 0)
    })
}

pub fn sync_file_system(fd: BorrowedFd<'_>) -> Result<()> {
    // syscall syncfs: SYNCFS
    // SAFETY: no memory is passed.
    checked_int(unsafe { libc::syncfs(fd.as_raw_fd()) })
}

/// How an extended attribute call reaches its file.
#[derive(Clone, Copy)]
pub enum Attribute<'f> {
    /// Through `self/fd/N` below *proc* (Linux 6.13): any file.
    Linked { proc: BorrowedFd<'f>, fd: BorrowedFd<'f> },
    /// Directly: a file or directory that is open for data.
    Opened(BorrowedFd<'f>),
}

/// `struct xattr_args`.
#[repr(C)]
struct AttributeArgs {
    value: u64,
    size: u32,
    flags: u32,
}

const SYS_SETXATTRAT: i64 = 463;
const SYS_GETXATTRAT: i64 = 464;
const SYS_LISTXATTRAT: i64 = 465;
const SYS_REMOVEXATTRAT: i64 = 466;

pub fn set_attribute(file: Attribute<'_>, name: &CStr, value: &[u8], flags: i32) -> Result<()> {
    let result = match file {
        Attribute::Linked { proc, fd } => {
            let args = AttributeArgs { value: value.as_ptr() as u64, size: value.len() as u32, flags: flags as u32 };
            let (link, args) = (FdLink::of(fd), &raw const args);
            // syscall setxattrat: SETXATTR
            // SAFETY: strings are NUL-terminated, args points to as many bytes as it says and has the size passed.
            unsafe {
                let size = size_of::<AttributeArgs>();
                libc::syscall(SYS_SETXATTRAT, proc.as_raw_fd(), link.as_ptr(), 0, name.as_ptr(), args, size)
            }
        }
        // syscall fsetxattr: SETXATTR before Linux 6.13
        // SAFETY: the name is NUL-terminated, the value has the length passed.
        Attribute::Opened(fd) => i64::from(unsafe {
            libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
        }),
    };
    checked(result).map(drop)
}

/// Length of the value; an empty buffer asks for that alone.
pub fn get_attribute(file: Attribute<'_>, name: &CStr, value: &mut [u8]) -> Result<usize> {
    checked(match file {
        Attribute::Linked { proc, fd } => {
            let args = AttributeArgs { value: value.as_mut_ptr() as u64, size: value.len() as u32, flags: 0 };
            let (link, args) = (FdLink::of(fd), &raw const args);
            // syscall getxattrat: GETXATTR
            // SAFETY: strings are NUL-terminated, args points to as many bytes as it says and has the size passed.
            unsafe {
                let size = size_of::<AttributeArgs>();
                libc::syscall(SYS_GETXATTRAT, proc.as_raw_fd(), link.as_ptr(), 0, name.as_ptr(), args, size)
            }
        }
        // syscall fgetxattr: GETXATTR before Linux 6.13
        // SAFETY: the name is NUL-terminated, the buffer has the length passed.
        Attribute::Opened(fd) => unsafe {
            libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) as i64
        },
    })
}

pub fn list_attributes(file: Attribute<'_>, list: &mut [u8]) -> Result<usize> {
    checked(match file {
        Attribute::Linked { proc, fd } => {
            let link = FdLink::of(fd);
            // syscall listxattrat: LISTXATTR
            // SAFETY: the link is NUL-terminated, the buffer has the length passed.
            unsafe {
                let (start, size) = (list.as_mut_ptr(), list.len());
                libc::syscall(SYS_LISTXATTRAT, proc.as_raw_fd(), link.as_ptr(), 0, start, size)
            }
        }
        // syscall flistxattr: LISTXATTR before Linux 6.13
        // SAFETY: the buffer has the length passed.
        Attribute::Opened(fd) => unsafe {
            libc::flistxattr(fd.as_raw_fd(), list.as_mut_ptr().cast(), list.len()) as i64
        },
    })
}

pub fn remove_attribute(file: Attribute<'_>, name: &CStr) -> Result<()> {
    let result = match file {
        Attribute::Linked { proc, fd } => {
            let link = FdLink::of(fd);
            // syscall removexattrat: REMOVEXATTR
            // SAFETY: both strings are NUL-terminated.
            unsafe { libc::syscall(SYS_REMOVEXATTRAT, proc.as_raw_fd(), link.as_ptr(), 0, name.as_ptr()) }
        }
        // syscall fremovexattr: REMOVEXATTR before Linux 6.13
        // SAFETY: the name is NUL-terminated.
        Attribute::Opened(fd) => i64::from(unsafe { libc::fremovexattr(fd.as_raw_fd(), name.as_ptr()) }),
    };
    checked(result).map(drop)
}

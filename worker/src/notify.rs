//! Descriptors that wake somebody: ours between threads, and the kick, call and error descriptors of a ring.

use std::ffi::CStr;
use std::fmt;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, Timespec};
use rustix::fs::{fcntl_getfl, fcntl_setfl, readlinkat_raw, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::socket_domain;
use rustix::net::AddressFamily;

use crate::ipc::{leave, Exit};
use crate::log;

/// Waits until one of *descriptors* is ready or *timeout* is over. May come back for nothing: every caller looks again.
///
/// Ends the process when the kernel refuses to wait at all, since every loop around this would spin from then on.
pub fn wait(descriptors: &mut [PollFd<'_>], timeout: Option<&Timespec>) {
    // syscall ppoll: threads wait for kicks and plans, the control thread for supervisor, monitor and rings
    match poll(descriptors, timeout) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => {
            log::error(format_args!("internal error: ppoll: {errno}"));
            leave(Exit::Internal, errno.raw_os_error());
            Exit::Internal.now()
        }
    }
}

/// An event descriptor between two threads of this process: many signals, one wake-up.
pub struct Waker(OwnedFd);

impl Waker {
    pub fn new() -> Result<Self, Errno> {
        // syscall eventfd2: wake-ups between the control thread and the queue threads
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub fn wake(&self) {
        add_one(self.0.as_fd());
    }

    /// Takes all signals sent so far.
    pub fn clear(&self) {
        take(self.0.as_fd());
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyError {
    Kind(&'static str),
    Check(Errno),
    Flags(Errno),
}

impl fmt::Display for NotifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(wanted) => write!(f, "the descriptor is not {wanted}"),
            Self::Check(errno) => write!(f, "the descriptor's kind cannot be read: {errno}"),
            Self::Flags(errno) => write!(f, "O_NONBLOCK cannot be set on the descriptor: {errno}"),
        }
    }
}

/// The descriptor by which a driver announces requests: an eventfd.
#[derive(Debug)]
pub struct Kick(OwnedFd);

impl Kick {
    pub fn accept(descriptor: OwnedFd, proc: BorrowedFd<'_>) -> Result<Self, NotifyError> {
        if !is_eventfd(&descriptor, proc)? {
            return Err(NotifyError::Kind("an eventfd"));
        }
        never_block(&descriptor)?;
        Ok(Self(descriptor))
    }

    /// True if there was a kick since the last look.
    pub fn take(&self) -> bool {
        take(self.0.as_fd())
    }
}

impl AsFd for Kick {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The descriptor by which the device signals the driver, or reports a broken ring: an eventfd, or a UNIX socket.
///
/// user-mode-linux takes its interrupts from one end of a socket pair, since an eventfd sends no SIGIO. Both have what
/// matters here: with `O_NONBLOCK` a full one answers EAGAIN, and full means that the other side has yet to look.
#[derive(Debug)]
pub struct Call(OwnedFd);

impl Call {
    pub fn accept(descriptor: OwnedFd, proc: BorrowedFd<'_>) -> Result<Self, NotifyError> {
        if !is_eventfd(&descriptor, proc)? && !is_unix_socket(&descriptor) {
            return Err(NotifyError::Kind("an eventfd or a UNIX socket"));
        }
        never_block(&descriptor)?;
        Ok(Self(descriptor))
    }

    pub fn signal(&self) {
        add_one(self.0.as_fd());
    }
}

/// What the kernel calls the descriptor: eventfd, epoll, timerfd and others share one anonymous inode, so that its
/// type and number do not tell them apart.
fn is_eventfd(descriptor: &OwnedFd, proc: BorrowedFd<'_>) -> Result<bool, NotifyError> {
    const EXPECTED: &[u8] = b"anon_inode:[eventfd]";
    let mut name = [0u8; 32];
    let _ = write!(name.as_mut_slice(), "self/fd/{}", descriptor.as_raw_fd());
    let name = CStr::from_bytes_until_nul(&name).map_err(|_| NotifyError::Check(Errno::INVAL))?;
    let mut target = [0u8; 32];
    // syscall readlinkat: is a received descriptor an eventfd?
    let length = readlinkat_raw(proc, name, &mut target[..]).map_err(NotifyError::Check)?;
    Ok(target.get(..length) == Some(EXPECTED))
}

fn is_unix_socket(descriptor: &OwnedFd) -> bool {
    // syscall getsockopt: the kind of an inherited or received socket
    socket_domain(descriptor) == Ok(AddressFamily::UNIX)
}

/// A saturated eventfd blocks its writer otherwise, and an empty one its reader.
fn never_block(descriptor: &OwnedFd) -> Result<(), NotifyError> {
    let flags = fcntl_getfl(descriptor).map_err(NotifyError::Flags)?;
    // syscall fcntl: O_NONBLOCK on received descriptors
    fcntl_setfl(descriptor, flags | OFlags::NONBLOCK).map_err(NotifyError::Flags)
}

/// EAGAIN: already signalled. Any other failure is the other side's descriptor, and its loss.
fn add_one(descriptor: BorrowedFd<'_>) {
    // syscall write: signals
    let _ = rustix::io::write(descriptor, &1u64.to_ne_bytes());
}

fn take(descriptor: BorrowedFd<'_>) -> bool {
    let mut count = [0; 8];
    // syscall read: kicks and wake-ups
    rustix::io::read(descriptor, &mut count[..]).is_ok()
}

//! Why a request is answered with an error.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::fuse::Malformed;

/// A positive error number, as the host gave it or as this server chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// What the last system call of this thread left.
    pub fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    /// The name in a reference did not lead to its node: worth a second look, and ESTALE after that. EXDEV is what
    /// RESOLVE_BENEATH answers when the file is moved to another directory in the middle of the call.
    pub fn is_stale_path(self) -> bool {
        matches!(self.0, libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ESTALE | libc::ENXIO | libc::EXDEV)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Errno(Errno),
    Malformed(Malformed),
}

impl Failure {
    pub fn errno(self) -> i32 {
        match self {
            Self::Errno(Errno(number)) => number,
            Self::Malformed(_) => libc::EINVAL,
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Shorthand for refusing with *number*.
pub fn refuse<T>(number: i32) -> Result<T, Failure> {
    Err(Failure::Errno(Errno(number)))
}

// A panic aborts the process, so a poisoned lock is never seen; these say so without an unwrap.

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn shared<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub fn exclusive<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

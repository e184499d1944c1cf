//! The user and group that a creating request acts as.

use super::failure::Errno;
use crate::config::{Ids, Unmapped};

/// Uid and gid that the kernel takes for ownership of new files, for this thread only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    uid: u32,
    gid: u32,
}

/// A serving thread's file system ids: its own, and whether requests may change them.
///
/// `setfsuid` and `setfsgid` rather than the effective ids: capabilities stay in force (with
/// `SECBIT_NO_SETUID_FIXUP`, which the launcher sets), so a file with any owner can be created in any directory that
/// the guest has allowed it in.
#[derive(Debug)]
pub struct Credentials {
    own: Pair,
    switch: bool,
    unmapped: Unmapped,
}

impl Credentials {
    pub fn of_this_thread(ids: Ids, unmapped: Unmapped) -> Self {
        // An id that does not exist changes nothing and returns the one in force.
        let own = Pair { uid: setfsuid(u32::MAX), gid: setfsgid(u32::MAX) };
        Self { own, switch: ids == Ids::Caller, unmapped }
    }

    /// Runs *create* as *uid* and *gid*. When the kernel refuses the change, which it does for an id without a mapping:
    /// EPERM, or *create* runs under the thread's own ids. No system call is made when those are asked for.
    pub fn acting_as<T, E: From<Errno>>(
        &self,
        uid: u32,
        gid: u32,
        create: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let caller = Pair { uid, gid };
        if !self.switch || caller == self.own {
            return create();
        }
        if Self::change(self.own, caller) {
            let result = create();
            self.come_back(caller);
            return result;
        }
        self.come_back(caller);
        match self.unmapped {
            Unmapped::Forbid => Err(E::from(Errno(libc::EPERM))),
            Unmapped::Squash => create(),
        }
    }

    fn come_back(&self, caller: Pair) {
        if !Self::change(caller, self.own) {
            // Going on would create other callers' files as this one.
            std::process::abort();
        }
    }

    /// Sets what differs between the two, and reads it back: the calls report no errors.
    fn change(from: Pair, to: Pair) -> bool {
        let mut done = true;
        if from.gid != to.gid {
            setfsgid(to.gid);
            done &= setfsgid(u32::MAX) == to.gid;
        }
        if from.uid != to.uid {
            setfsuid(to.uid);
            done &= setfsuid(u32::MAX) == to.uid;
        }
        done
    }
}

fn setfsuid(uid: u32) -> u32 {
    // syscall setfsuid: owner of what CREATE, MKDIR, MKNOD and SYMLINK make
    // SAFETY: no memory is passed.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) as u32 }
}

fn setfsgid(gid: u32) -> u32 {
    // syscall setfsgid: group of what CREATE, MKDIR, MKNOD and SYMLINK make
    // SAFETY: no memory is passed.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) as u32 }
}

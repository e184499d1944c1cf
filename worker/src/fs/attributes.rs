//! SETATTR and ACCESS.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::data::file_offset;
use super::failure::{refuse, shared, Errno, Failure};
use super::handles::OpenFile;
use super::{host, Answer, Call, Outcome, Server, Work};
use crate::fuse::abi::setattr;
use crate::fuse::reply::Attr;
use crate::fuse::Malformed;

/// `struct fuse_setattr_in`, as far as it is used.
struct Changes {
    valid: u32,
    fh: u64,
    size: u64,
    atime: (u64, u32),
    mtime: (u64, u32),
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Changes {
    fn read(call: &Call<'_, '_>) -> Result<Self, Malformed> {
        let mut fields = call.fields();
        let (valid, _, fh, size, _) = (fields.u32()?, fields.u32()?, fields.u64()?, fields.u64()?, fields.u64()?);
        let (atime, mtime, _) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (atime, mtime, _) = ((atime, fields.u32()?), (mtime, fields.u32()?), fields.u32()?);
        let (mode, _, uid, gid) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        Ok(Self { valid, fh, size, atime, mtime, mode, uid, gid })
    }

    fn has(&self, bit: u32) -> bool {
        self.valid & bit != 0
    }

    /// An id, or the value that leaves it alone.
    fn id(&self, bit: u32, id: u32) -> u32 {
        if self.has(bit) {
            id
        } else {
            u32::MAX
        }
    }

    fn time(&self, set: u32, now: u32, time: (u64, u32)) -> libc::timespec {
        let nanoseconds = match (self.has(set), self.has(now)) {
            (false, _) => libc::UTIME_OMIT,
            (_, true) => libc::UTIME_NOW,
            _ => i64::from(time.1),
        };
        libc::timespec { tv_sec: time.0 as i64, tv_nsec: nanoseconds }
    }
}

impl Server {
    pub(super) fn setattr(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let changes = Changes::read(call)?;
        let id = call.header.node;
        let file = if changes.has(setattr::FH) { Some(shared(&self.handles).get(changes.fh, id)?) } else { None };
        let descriptor = match &file {
            Some(file) => Arc::clone(&file.descriptor),
            None => self.descriptor(id)?,
        };
        // The owner first: changing it clears set-id bits that the mode may set again.
        self.set_owner_and_mode(descriptor.as_fd(), &changes)?;
        if changes.has(setattr::SIZE) {
            self.set_size(id, file.as_deref(), changes.size)?;
        }
        if changes.has(setattr::ATIME | setattr::MTIME) {
            let times = [
                changes.time(setattr::ATIME, setattr::ATIME_NOW, changes.atime),
                changes.time(setattr::MTIME, setattr::MTIME_NOW, changes.mtime),
            ];
            host::set_times(descriptor.as_fd(), &times)?;
        }
        work.out.attr_out(&self.attributes(id)?, self.session.validity());
        Ok(Answer::Encoded)
    }

    fn set_owner_and_mode(&self, fd: BorrowedFd<'_>, changes: &Changes) -> Result<(), Errno> {
        if changes.has(setattr::UID | setattr::GID) {
            let (uid, gid) = (changes.id(setattr::UID, changes.uid), changes.id(setattr::GID, changes.gid));
            host::set_owner(fd, uid, gid)?;
        }
        if changes.has(setattr::MODE) {
            host::set_mode(self.proc.as_fd(), fd, changes.mode & 0o7777)?;
        }
        Ok(())
    }

    fn set_size(&self, id: u64, file: Option<&OpenFile>, size: u64) -> Result<(), Failure> {
        let size = file_offset(size)?;
        match file {
            Some(file) if file.is_writable() => Ok(host::truncate(file.fd(), size)?),
            _ => {
                let node = self.inodes(|inodes| inodes.get(id))?;
                match node.kind {
                    libc::S_IFREG => Ok(host::truncate(self.open_node(id, libc::O_WRONLY)?.as_fd(), size)?),
                    libc::S_IFDIR => refuse(libc::EISDIR),
                    _ => refuse(libc::EINVAL),
                }
            }
        }
    }

    /// Judged by owner and mode bits; a guest that checks permissions itself never asks.
    pub(super) fn access(&self, call: &Call<'_, '_>) -> Outcome {
        let mask = call.fields().u32()? as i32;
        if mask & !(libc::R_OK | libc::W_OK | libc::X_OK) != 0 {
            return refuse(libc::EINVAL);
        }
        let attr = self.attributes(call.header.node)?;
        if granted(&attr, call.header.uid, call.header.gid) & mask as u32 == mask as u32 {
            Ok(Answer::Encoded)
        } else {
            refuse(libc::EACCES)
        }
    }
}

/// Read, write and execute bits that *uid* and *gid* have; root has all but the right to run what nobody may run.
fn granted(attr: &Attr, uid: u32, gid: u32) -> u32 {
    let is_directory = attr.mode & libc::S_IFMT == libc::S_IFDIR;
    match (uid, gid) {
        (0, _) if is_directory || attr.mode & 0o111 != 0 => 7,
        (0, _) => 6,
        (uid, _) if uid == attr.uid => attr.mode >> 6 & 7,
        (_, gid) if gid == attr.gid => attr.mode >> 3 & 7,
        _ => attr.mode & 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_class_decides() {
        let attr = Attr { mode: libc::S_IFREG | 0o074, uid: 5, gid: 6, ..Attr::default() };
        assert_eq!(granted(&attr, 5, 6), 0, "the owner, though the group may");
        assert_eq!(granted(&attr, 7, 6), 7);
        assert_eq!(granted(&attr, 7, 7), 4);
        assert_eq!(granted(&attr, 0, 0), 7);
        assert_eq!(granted(&Attr { mode: libc::S_IFREG | 0o600, ..attr }, 0, 0), 6, "nobody may run it");
    }
}

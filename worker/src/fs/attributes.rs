//! SETATTR and ACCESS.
//!
//! A jail without mounts of its own allows no calls that take a path or an `O_PATH` descriptor here, since nothing but
//! its Landlock rules bounds the share, and those judge only opens. Attributes then change through a descriptor that
//! is open for data; what cannot be opened so (links, FIFOs, sockets, files without a permission) answers EPERM.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::data::file_offset;
use super::descriptors::Descriptor;
use super::failure::{refuse, shared, Errno, Failure};
use super::handles::OpenFile;
use super::{host, Answer, Call, Outcome, Server, Work};
use crate::config::{Attributes, Ids};
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

/// How attributes are reached: by any descriptor, or by one that is open for data.
enum Way {
    Path(Arc<Descriptor>),
    Open(Arc<Descriptor>),
}

impl Server {
    pub(super) fn setattr(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let changes = Changes::read(call)?;
        let id = call.header.node;
        let file = if changes.has(setattr::FH) { Some(shared(&self.handles).get(changes.fh, id)?) } else { None };
        let way =
            if changes.has(setattr::CHANGES & !setattr::SIZE) { Some(self.way(id, file.as_deref())?) } else { None };
        if let Some(way) = &way {
            // The owner first: changing it clears set-id bits that the mode may set again.
            self.set_owner(way, id, &changes)?;
            self.set_mode(way, &changes)?;
        }
        if changes.has(setattr::SIZE) {
            self.set_size(id, file.as_deref(), changes.size)?;
        }
        if let Some(way) = way.filter(|_| changes.has(setattr::ATIME | setattr::MTIME)) {
            let times = [
                changes.time(setattr::ATIME, setattr::ATIME_NOW, changes.atime),
                changes.time(setattr::MTIME, setattr::MTIME_NOW, changes.mtime),
            ];
            match way {
                Way::Path(descriptor) => host::set_times(descriptor.as_fd(), &times)?,
                Way::Open(descriptor) => host::set_times_of_open(descriptor.as_fd(), &times)?,
            }
        }
        work.out.attr_out(&self.attributes(id)?, self.session.validity());
        Ok(Answer::Encoded)
    }

    fn way(&self, id: u64, file: Option<&OpenFile>) -> Result<Way, Failure> {
        match (self.attribute_calls, file) {
            (Attributes::Path, Some(file)) => Ok(Way::Path(Arc::clone(&file.descriptor))),
            (Attributes::Path, None) => Ok(Way::Path(self.descriptor(id)?)),
            (Attributes::Open, Some(file)) => Ok(Way::Open(Arc::clone(&file.descriptor))),
            (Attributes::Open, None) => Ok(Way::Open(self.open_for_attributes(id)?)),
        }
    }

    /// A descriptor that is open for data: for reading, or for writing where only that is permitted. EPERM for what
    /// cannot be opened.
    pub(super) fn open_for_attributes(&self, id: u64) -> Result<Arc<Descriptor>, Failure> {
        let refused = |errno: i32| matches!(errno, libc::EACCES | libc::ENXIO);
        match self.open_node(id, libc::O_RDONLY) {
            Err(Failure::Errno(Errno(libc::EACCES))) => match self.open_node(id, libc::O_WRONLY) {
                Err(failure) if refused(failure.errno()) || failure.errno() == libc::EISDIR => refuse(libc::EPERM),
                other => other,
            },
            Err(failure) if refused(failure.errno()) => refuse(libc::EPERM),
            other => other,
        }
    }

    /// EPERM for an id without a mapping, and for any owner but the present one where all belongs to the worker.
    fn set_owner(&self, way: &Way, id: u64, changes: &Changes) -> Result<(), Failure> {
        if !changes.has(setattr::UID | setattr::GID) {
            return Ok(());
        }
        let (uid, gid) = (changes.id(setattr::UID, changes.uid), changes.id(setattr::GID, changes.gid));
        if self.ids == Ids::Own {
            let present = self.attributes(id)?;
            let stays = |wanted: u32, present: u32| wanted == u32::MAX || wanted == present;
            return if stays(uid, present.uid) && stays(gid, present.gid) { Ok(()) } else { refuse(libc::EPERM) };
        }
        let result = match way {
            Way::Path(descriptor) => host::set_owner(descriptor.as_fd(), uid, gid),
            Way::Open(descriptor) => host::set_owner_of_open(descriptor.as_fd(), uid, gid),
        };
        match result {
            // An id that the user namespace does not map.
            Err(Errno(libc::EINVAL)) => refuse(libc::EPERM),
            other => Ok(other?),
        }
    }

    fn set_mode(&self, way: &Way, changes: &Changes) -> Result<(), Errno> {
        let mode = changes.mode & 0o7777;
        match way {
            _ if !changes.has(setattr::MODE) => Ok(()),
            Way::Path(descriptor) => host::set_mode(self.proc.as_fd(), descriptor.as_fd(), mode),
            Way::Open(descriptor) => host::set_mode_of_open(descriptor.as_fd(), mode),
        }
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

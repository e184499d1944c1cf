//! LOOKUP, FORGET, GETATTR, READLINK, STATFS: what the guest knows about files.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use super::failure::{refuse, shared, Errno, Failure};
use super::inodes::{Directory, Witness};
use super::law::Law;
use super::name::Name;
use super::stat::Stat;
use super::{host, Answer, Call, Outcome, Server, Work};
use crate::fuse::abi::{init, ATTR_SUBMOUNT, FORGET_ONE_BYTES, GETATTR_FH, IN_HEADER_BYTES, MAX_NAME_BYTES, ROOT_ID};
use crate::fuse::reply::Attr;
use crate::fuse::request::Fields;
use crate::fuse::Malformed;
use crate::journal::{flags, NodeRecord};

/// A node that was looked up, with the count taken.
pub(super) struct Found {
    pub id: u64,
    pub attr: Attr,
}

impl Server {
    pub(super) fn lookup(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let mut fields = call.fields();
        let string = fields.string()?;
        fields.end()?;
        let found = match string.to_bytes() {
            b"." | b".." => self.look_up_dots(call.header.node, string)?,
            _ => {
                let name = Name::component(string)?;
                let descriptor = self.descriptor(call.header.node)?;
                self.enter(call.law, Directory { id: call.header.node, descriptor: &descriptor }, &name)?
            }
        };
        work.out.entry(found.id, &found.attr, self.session.validity());
        Ok(Answer::Encoded)
    }

    /// "." and ".." come from the table: the kernel would climb out of a mount, or above a moved directory.
    fn look_up_dots(&self, id: u64, dots: &CStr) -> Result<Found, Failure> {
        let node = self.inodes(|inodes| inodes.get(id))?;
        if node.kind != libc::S_IFDIR {
            return refuse(libc::ENOTDIR);
        }
        let target = if dots == c"." || id == ROOT_ID { id } else { node.parent };
        let attr = self.attributes(target)?;
        self.inodes(|inodes| inodes.look_up_again(target))?;
        Ok(Found { id: target, attr })
    }

    /// Looks *name* up in *directory* and takes one count on the node it leads to.
    pub(super) fn enter(&self, law: Option<&Law>, directory: Directory<'_>, name: &CStr) -> Result<Found, Failure> {
        let _renames_wait = shared(&self.renames);
        let stat = Stat::of_name(directory.descriptor.as_fd(), name)?;
        self.enter_known(law, directory, name, &stat, None)
    }

    /// As [`Self::enter`], for a name whose attributes were just read, perhaps of the file *opened* under it. Nobody
    /// may rename meanwhile.
    pub(super) fn enter_known(
        &self,
        law: Option<&Law>,
        directory: Directory<'_>,
        name: &CStr,
        stat: &Stat,
        opened: Option<BorrowedFd<'_>>,
    ) -> Result<Found, Failure> {
        let bytes = name.to_bytes();
        if let Some(law) = law {
            self.inodes(|inodes| inodes.admit(law, directory, bytes, stat))?;
        }
        let proven = stat.is_proven();
        let quick = self.inodes(|inodes| match inodes.find(&stat.identity) {
            Some(node) if !node.has(flags::HAS_HANDLE) => {
                let node = if proven && node.has(flags::UNPROVEN) { inodes.trust(node)? } else { node };
                inodes.refer(node, directory, bytes).map(Some)
            }
            None if proven => inodes.insert(directory, bytes, stat, Witness::Birth).map(Some),
            _ => Ok(None),
        })?;
        let node = if let Some(node) = quick {
            node
        } else {
            let witness = self.witness(directory, name, stat, opened)?;
            self.enter_unproven(directory, name, stat, proven, witness)?
        };
        Ok(Found { id: node.id, attr: self.guest_attr(stat, &node) })
    }

    /// Number and birth time may belong to a successor of the file that is known by them: its handle decides.
    fn enter_unproven(
        &self,
        directory: Directory<'_>,
        name: &CStr,
        stat: &Stat,
        proven: bool,
        witness: Witness,
    ) -> Result<NodeRecord, Failure> {
        let bytes = name.to_bytes();
        self.inodes(|inodes| {
            let known = match (inodes.find(&stat.identity), &witness) {
                (Some(node), _) if !node.has(flags::HAS_HANDLE) => Some(node),
                (Some(node), Witness::Handle(handle)) if inodes.reference(&node)?.1 == *handle => {
                    Some(if proven { inodes.trust(node)? } else { node })
                }
                _ => None,
            };
            match known {
                Some(node) => inodes.refer(node, directory, bytes),
                None if proven => inodes.insert(directory, bytes, stat, Witness::Birth),
                None => inodes.insert(directory, bytes, stat, witness),
            }
        })
        .map_err(Failure::from)
    }

    /// The file handle of *name*, or where there are none a descriptor that keeps the inode from being reused.
    fn witness(
        &self,
        directory: Directory<'_>,
        name: &CStr,
        stat: &Stat,
        opened: Option<BorrowedFd<'_>>,
    ) -> Result<Witness, Failure> {
        let handle = match opened {
            Some(fd) => host::file_handle(fd, c""),
            None => host::file_handle(directory.descriptor.as_fd(), name),
        };
        match handle {
            Ok(handle) => Ok(Witness::Handle(handle.as_bytes().to_vec())),
            Err(Errno(libc::EOPNOTSUPP | libc::EPERM | libc::ENOSYS)) => {
                let slot = self.slot()?;
                let fd = host::open_below(directory.descriptor.as_fd(), name, libc::O_PATH, 0)?;
                if Stat::of_fd(fd.as_fd())?.identity != stat.identity {
                    return refuse(libc::ESTALE);
                }
                Ok(Witness::Descriptor(slot.fill(fd)))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn forget(&self, call: &Call<'_, '_>) -> Outcome {
        let count = call.fields().u64()?;
        self.inodes(|inodes| inodes.forget(call.header.node, count));
        Ok(Answer::Encoded)
    }

    pub(super) fn forget_batch(&self, call: &Call<'_, '_>) -> Outcome {
        let count = call.fields().u32()? as usize;
        let start = IN_HEADER_BYTES + 8;
        let sent = (call.header.length as usize).saturating_sub(start) / FORGET_ONE_BYTES;
        if count > sent {
            return Err(Malformed("fewer forgets than announced").into());
        }
        let mut entry = [0; FORGET_ONE_BYTES];
        for index in 0..count {
            call.request.read_at(start + index * FORGET_ONE_BYTES, &mut entry);
            let mut fields = Fields::new(&entry);
            let (node, lookups) = (fields.u64()?, fields.u64()?);
            self.inodes(|inodes| inodes.forget(node, lookups));
        }
        Ok(Answer::Encoded)
    }

    pub(super) fn getattr(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let mut fields = call.fields();
        let (set, _, fh) = (fields.u32()?, fields.u32()?, fields.u64()?);
        let attr = if set & GETATTR_FH == 0 {
            self.attributes(call.header.node)?
        } else {
            let file = shared(&self.handles).get(fh, call.header.node)?;
            let node = self.inodes(|inodes| inodes.get(file.node))?;
            self.guest_attr(&Stat::of_fd(file.fd())?, &node)
        };
        work.out.attr_out(&attr, self.session.validity());
        Ok(Answer::Encoded)
    }

    /// Attributes of a node as the guest shall see them.
    pub(super) fn attributes(&self, id: u64) -> Result<Attr, Failure> {
        let (node, stat) = self.stat(id)?;
        Ok(self.guest_attr(&stat, &node))
    }

    fn guest_attr(&self, stat: &Stat, node: &NodeRecord) -> Attr {
        let announced = node.has(flags::SUBMOUNT) && stat.is_directory() && self.session.has(init::SUBMOUNTS);
        Attr { flags: if announced { ATTR_SUBMOUNT } else { 0 }, ..stat.attr }
    }

    pub(super) fn readlink(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let node = self.inodes(|inodes| inodes.get(call.header.node))?;
        if node.kind != libc::S_IFLNK {
            return refuse(libc::EINVAL);
        }
        let descriptor = self.descriptor(call.header.node)?;
        let mut target = [0; libc::PATH_MAX as usize];
        let length = host::read_link(descriptor.as_fd(), &mut target)?;
        let target = target.get(..length).unwrap_or_default();
        if target.len() > call.capacity() {
            return Err(Malformed("no room for the reply").into());
        }
        work.out.bytes(target);
        Ok(Answer::Encoded)
    }

    /// `struct fuse_kstatfs`.
    pub(super) fn statfs(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let descriptor = self.descriptor(call.header.node)?;
        let stat = host::statfs(descriptor.as_fd())?;
        for value in [stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_files, stat.f_ffree] {
            work.out.u64(value);
        }
        let name_length = (stat.f_namemax as u32).min(MAX_NAME_BYTES as u32);
        for value in [stat.f_bsize as u32, name_length, stat.f_frsize as u32] {
            work.out.u32(value);
        }
        work.out.zeros(28);
        Ok(Answer::Encoded)
    }
}

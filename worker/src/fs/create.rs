//! CREATE, MKDIR, MKNOD, SYMLINK, LINK: new names.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::descriptors::Descriptor;
use super::failure::{refuse, shared, Errno, Failure};
use super::inodes::Directory;
use super::law::Law;
use super::lookup::Found;
use super::name::Name;
use super::shape::opens_for_change;
use super::stat::{host_device, Stat};
use super::{host, Answer, Call, Outcome, Server, Work};

const PERMISSIONS: u32 = 0o7777;

/// What CREATE asks for.
struct Creation<'b> {
    flags: i32,
    mode: u32,
    name: Name<'b>,
}

impl Server {
    pub(super) fn create(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let mut fields = call.fields();
        let (flags, mode) = (fields.u32()? as i32, fields.u32()? & PERMISSIONS);
        fields.bytes(8)?;
        let name = Name::component(fields.string()?)?;
        fields.end()?;
        let wanted = Creation { flags, mode, name };
        let flags = self.host_flags(flags)?;
        let parent = self.descriptor(call.header.node)?;
        let directory = Directory { id: call.header.node, descriptor: &parent };
        let (found, descriptor) = match self.create_new(directory, &wanted, flags, call, work) {
            Err(Failure::Errno(Errno(libc::EEXIST))) if wanted.flags & libc::O_EXCL == 0 => {
                self.open_existing(call.law, directory, &wanted, flags)?
            }
            other => other?,
        };
        let fh = self.register(found.id, descriptor, flags, None).inspect_err(|_| self.take_back(found.id))?;
        work.out.entry(found.id, &found.attr, self.session.validity());
        work.out.open(fh, self.session.file_flags());
        Ok(Answer::Encoded)
    }

    /// Makes the file, which must not exist: only then is what was opened known to be new and empty.
    fn create_new(
        &self,
        directory: Directory<'_>,
        wanted: &Creation<'_>,
        flags: i32,
        call: &Call<'_, '_>,
        work: &Work,
    ) -> Result<(Found, Arc<Descriptor>), Failure> {
        let slot = self.slot()?;
        let flags = flags | libc::O_CREAT | libc::O_EXCL;
        let fd: OwnedFd = work.credentials.acting_as(call.header.uid, call.header.gid, || {
            host::open_below(directory.descriptor.as_fd(), &wanted.name, flags, wanted.mode)
        })?;
        let _renames_wait = shared(&self.renames);
        let found = self.enter_known(call.law, directory, &wanted.name, &Stat::of_fd(fd.as_fd())?, Some(fd.as_fd()))?;
        Ok((found, slot.fill(fd)))
    }

    /// Somebody else made the file after the guest found it missing. Anything but a file is the guest's to deal with
    /// (follow the link, open the FIFO): ESTALE makes it walk the path again.
    fn open_existing(
        &self,
        law: Option<&Law>,
        directory: Directory<'_>,
        wanted: &Creation<'_>,
        flags: i32,
    ) -> Result<(Found, Arc<Descriptor>), Failure> {
        let found = self.enter(law, directory, &wanted.name)?;
        if found.attr.mode & libc::S_IFMT != libc::S_IFREG {
            self.take_back(found.id);
            return refuse(libc::ESTALE);
        }
        if let Some(law) = law.filter(|_| opens_for_change(wanted.flags)) {
            self.may_change(law, found.id).inspect_err(|_| self.take_back(found.id))?;
        }
        let opened = self.open_file(found.id, flags, wanted.flags).inspect_err(|_| self.take_back(found.id))?;
        Ok((found, opened))
    }

    /// Undoes the count of a lookup whose reply will not be sent.
    fn take_back(&self, id: u64) {
        self.inodes(|inodes| inodes.forget(id, 1));
    }

    pub(super) fn mkdir(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let mut fields = call.fields();
        let (mode, _) = (fields.u32()? & PERMISSIONS, fields.u32()?);
        let name = Name::component(fields.string()?)?;
        fields.end()?;
        self.make(&name, call, work, |parent| host::make_directory(parent, &name, mode))
    }

    pub(super) fn mknod(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let mut fields = call.fields();
        let (mode, device) = (fields.u32()?, fields.u32()?);
        fields.bytes(8)?;
        let name = Name::component(fields.string()?)?;
        fields.end()?;
        match mode & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK => {}
            // What the kernel says inside a user namespace; asking it would be a call that the jail forbids.
            libc::S_IFCHR | libc::S_IFBLK => return refuse(libc::EPERM),
            _ => return refuse(libc::EINVAL),
        }
        let mode = mode & (libc::S_IFMT | PERMISSIONS);
        self.make(&name, call, work, |parent| host::make_node(parent, &name, mode, host_device(device)))
    }

    pub(super) fn symlink(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let mut fields = call.fields();
        let name = Name::component(fields.string()?)?;
        let target = fields.string()?;
        fields.end()?;
        self.make(&name, call, work, |parent| host::make_symlink(target, parent, &name))
    }

    /// Runs *create* as the caller and replies with the entry it made.
    fn make(
        &self,
        name: &CStr,
        call: &Call<'_, '_>,
        work: &mut Work,
        create: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Outcome {
        let parent = self.descriptor(call.header.node)?;
        work.credentials.acting_as(call.header.uid, call.header.gid, || create(parent.as_fd()))?;
        self.reply_entry(call.law, Directory { id: call.header.node, descriptor: &parent }, name, work)
    }

    pub(super) fn link(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let mut fields = call.fields();
        let source = fields.u64()?;
        let name = Name::component(fields.string()?)?;
        fields.end()?;
        let source = self.descriptor(source)?;
        let parent = self.descriptor(call.header.node)?;
        host::make_link(self.proc.as_fd(), source.as_fd(), parent.as_fd(), &name)?;
        self.reply_entry(call.law, Directory { id: call.header.node, descriptor: &parent }, &name, work)
    }

    fn reply_entry(&self, law: Option<&Law>, directory: Directory<'_>, name: &CStr, work: &mut Work) -> Outcome {
        let found = self.enter(law, directory, name)?;
        work.out.entry(found.id, &found.attr, self.session.validity());
        Ok(Answer::Encoded)
    }
}

//! UNLINK, RMDIR, RENAME: names that go, and what becomes of the nodes behind them.

use std::ffi::CStr;
use std::os::fd::AsFd;

use super::failure::{exclusive, refuse, shared, Errno, Failure};
use super::inodes::Directory;
use super::judge::Move;
use super::law::Law;
use super::name::Name;
use super::stat::Stat;
use super::{host, Answer, Call, Outcome, Server};
use crate::journal::flags;

impl Server {
    pub(super) fn unlink(&self, call: &Call<'_, '_>, is_directory: bool) -> Outcome {
        let mut fields = call.fields();
        let name = Name::component(fields.string()?)?;
        fields.end()?;
        let parent = self.descriptor(call.header.node)?;
        let directory = Directory { id: call.header.node, descriptor: &parent };
        // Neither may a rename put something else in the name's place between the look at it and its removal, nor may
        // what a rename has looked at be removed, and be made again as something else, before it is moved.
        let _renames_wait = call.law.map(|_| shared(&self.renames));
        let pinned = self.pin_victim(call.law, directory, &name)?;
        if let Err(errno) = host::remove(parent.as_fd(), &name, is_directory) {
            self.unpin_victim(pinned);
            return Err(errno.into());
        }
        Ok(Answer::Encoded)
    }

    pub(super) fn rename(&self, call: &Call<'_, '_>, has_flags: bool) -> Outcome {
        let mut fields = call.fields();
        let target = fields.u64()?;
        let mut flags = 0;
        if has_flags {
            flags = fields.u32()?;
            fields.u32()?;
        }
        let (old, new) = (Name::component(fields.string()?)?, Name::component(fields.string()?)?);
        fields.end()?;
        if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT) != 0 {
            return refuse(libc::EINVAL);
        }
        let (source, target_descriptor) = (self.descriptor(call.header.node)?, self.descriptor(target)?);
        let from = Directory { id: call.header.node, descriptor: &source };
        let to = Directory { id: target, descriptor: &target_descriptor };
        let _lookups_wait = exclusive(&self.renames);
        let wanted = Move { from, old: &old, to, new: &new, flags };
        if let Some(law) = call.law {
            self.may_move(law, &wanted)?;
        }
        if flags & libc::RENAME_EXCHANGE != 0 {
            host::rename(source.as_fd(), &old, target_descriptor.as_fd(), &new, flags)?;
            self.follow(from, &old);
        } else {
            self.rename_onto(call.law, &wanted)?;
        }
        self.follow(to, &new);
        Ok(Answer::Encoded)
    }

    /// Renames without replacing first: when that works, nothing has to be kept alive.
    fn rename_onto(&self, law: Option<&Law>, wanted: &Move<'_>) -> Result<(), Failure> {
        let Move { from, old, to, new, flags } = *wanted;
        let (source, target) = (from.descriptor.as_fd(), to.descriptor.as_fd());
        match host::rename(source, old, target, new, flags | libc::RENAME_NOREPLACE) {
            // EINVAL: the file system does not know the flag.
            Err(Errno(libc::EEXIST | libc::EINVAL)) if flags & libc::RENAME_NOREPLACE == 0 => {}
            other => return Ok(other?),
        }
        let pinned = self.pin_victim(law, to, new)?;
        host::rename(source, old, target, new, flags).map_err(|errno| {
            self.unpin_victim(pinned);
            errno.into()
        })
    }

    /// Keeps a descriptor of the node behind a name that is about to go: the guest may hold it open, or sit in it.
    /// Returns the node if it was not kept already. A name that does not exist is the coming call's to report.
    /// EROFS for a name of a file that was seen frozen under another one.
    fn pin_victim(&self, law: Option<&Law>, directory: Directory<'_>, name: &CStr) -> Result<Option<u64>, Failure> {
        let slot = self.slot()?;
        let fd = match host::open_below(directory.descriptor.as_fd(), name, libc::O_PATH, 0) {
            Err(Errno(libc::ENOENT)) => return Ok(None),
            other => other?,
        };
        let stat = Stat::of_fd(fd.as_fd())?;
        let descriptor = slot.fill(fd);
        if law.is_some_and(|law| self.inodes(|inodes| inodes.has_seen_frozen(law, &stat))) {
            return refuse(libc::EROFS);
        }
        Ok(self.inodes(|inodes| {
            let node = inodes.find(&stat.identity)?;
            let is_only_name = stat.is_directory() || stat.attr.nlink <= 1;
            if node.has(flags::UNLINKED | flags::ROOT) || !(is_only_name || inodes.is_known_as(&node, directory, name))
            {
                return None;
            }
            inodes.pin(node, &descriptor);
            Some(node.id)
        }))
    }

    fn unpin_victim(&self, pinned: Option<u64>) {
        if let Some(id) = pinned {
            self.inodes(|inodes| inodes.unpin(id));
        }
    }

    /// Points the node that is now behind *name* to it, if the guest knows it at all.
    fn follow(&self, directory: Directory<'_>, name: &CStr) {
        if let Ok(stat) = Stat::of_name(directory.descriptor.as_fd(), name) {
            self.inodes(|inodes| {
                if let Some(node) = inodes.find(&stat.identity) {
                    // Without room for the new name the node goes stale, as if the host had renamed it.
                    let _ = inodes.rename(node, directory, name.to_bytes());
                }
            });
        }
    }
}

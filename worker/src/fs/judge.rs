//! Path rules: each request is judged here before its operation, by its [`Deed`] and by the nodes and names it gives.
//!
//! Hidden: nodes are ENOENT and names are not found; a name that is to be made is EACCES, whether it exists or not.
//! Frozen: EROFS for every change. What only the host can tell (of what kind a file is that is renamed, whether it is
//! one that was seen frozen under another name) is asked by the operation, under the lock that keeps the answer true.

use super::failure::{refuse, Failure};
use super::inodes::Directory;
use super::law::Law;
use super::name::Name;
use super::shape::{least_request, Deed};
use super::stat::Stat;
use super::{Call, Server};
use crate::fuse::request::Fields;
use crate::fuse::Opcode;
use crate::rules::State;

/// Both sides of a RENAME, looked at while nobody else may rename.
pub(super) struct Move<'c> {
    pub from: Directory<'c>,
    pub old: &'c Name<'c>,
    pub to: Directory<'c>,
    pub new: &'c Name<'c>,
    pub flags: u32,
}

impl Server {
    pub(super) fn judge(&self, law: &Law, deed: Deed, opcode: Opcode, call: &Call<'_, '_>) -> Result<(), Failure> {
        let node = call.header.node;
        let mut body = call.fields();
        let mut names = Names::of(opcode, call.body);
        match deed {
            Deed::Keeps => Ok(()),
            Deed::Sees => self.may_see(law, node),
            Deed::Changes => self.may_change(law, node),
            Deed::Finds => self.may_find(law, node, names.next()),
            Deed::Adds { directory } => self.may_add(law, node, names.next(), directory),
            Deed::Links => {
                self.may_change(law, body.u64()?)?;
                self.may_add(law, node, names.next(), false)
            }
            Deed::Removes { directory } => self.may_remove(law, node, names.next(), directory),
            Deed::Moves => {
                // A directory is visible where anything is; what it really is shows in may_move.
                self.may_remove(law, node, names.next(), true)?;
                self.may_add(law, body.u64()?, names.next(), true)
            }
            Deed::Copies => {
                self.may_see(law, node)?;
                body.bytes(16)?;
                self.may_change(law, body.u64()?)
            }
        }
    }

    fn may_see(&self, law: &Law, node: u64) -> Result<(), Failure> {
        if self.inodes(|inodes| inodes.verdict(law, node))?.hidden {
            return refuse(libc::ENOENT);
        }
        Ok(())
    }

    /// Also of a file that an operation has found by itself.
    pub(super) fn may_change(&self, law: &Law, node: u64) -> Result<(), Failure> {
        let (verdict, is_file, is_full) = self.inodes(|inodes| {
            let is_file = inodes.get(node)?.kind == libc::S_IFREG;
            Ok::<_, Failure>((inodes.verdict(law, node)?, is_file, inodes.remembers_all_it_can()))
        })?;
        if verdict.hidden {
            return refuse(libc::ENOENT);
        }
        // The other names of a file cannot be seen: with several of them, one might be hidden or frozen.
        let is_doubtful = is_file && (law.rules.has_strict_links() || is_full);
        if verdict.frozen || is_doubtful && self.stat(node)?.1.attr.nlink > 1 {
            return refuse(libc::EROFS);
        }
        Ok(())
    }

    fn may_find(&self, law: &Law, directory: u64, name: Option<Name<'_>>) -> Result<(), Failure> {
        self.may_see(law, directory)?;
        if let Some(name) = name {
            let state = self.inodes(|inodes| inodes.state_below(law, directory, name.to_bytes()))?;
            if law.rules.judge(&state, true).hidden {
                return refuse(libc::ENOENT);
            }
        }
        Ok(())
    }

    fn may_add(&self, law: &Law, directory: u64, name: Option<Name<'_>>, is_directory: bool) -> Result<(), Failure> {
        self.may_alter(law, directory, name, is_directory, libc::EACCES)
    }

    fn may_remove(&self, law: &Law, directory: u64, name: Option<Name<'_>>, is_directory: bool) -> Result<(), Failure> {
        self.may_alter(law, directory, name, is_directory, libc::ENOENT)
    }

    /// A name that is none is left to the operation, which refuses it.
    fn may_alter(
        &self,
        law: &Law,
        directory: u64,
        name: Option<Name<'_>>,
        is_directory: bool,
        hidden: i32,
    ) -> Result<(), Failure> {
        let above = self.inodes(|inodes| inodes.verdict(law, directory))?;
        if above.hidden {
            return refuse(libc::ENOENT);
        }
        if above.frozen {
            return refuse(libc::EROFS);
        }
        let Some(name) = name else { return Ok(()) };
        let state = self.inodes(|inodes| inodes.state_below(law, directory, name.to_bytes()))?;
        let verdict = law.rules.judge(&state, is_directory);
        if verdict.hidden {
            return refuse(hidden);
        }
        if verdict.frozen {
            return refuse(libc::EROFS);
        }
        Ok(())
    }

    /// Judges a rename by what lies behind both names. EXDEV for a directory in which something would become hidden
    /// or frozen, or cease to be: its state must stay, and with it that of all below.
    pub(super) fn may_move(&self, law: &Law, wanted: &Move<'_>) -> Result<(), Failure> {
        let Move { from, old, to, new, flags } = wanted;
        let (here, there) = self.inodes(|inodes| {
            let here = inodes.state_below(law, from.id, old.to_bytes())?;
            Ok::<_, Failure>((here, inodes.state_below(law, to.id, new.to_bytes())?))
        })?;
        self.may_trade(law, *from, old, &here, &there)?;
        if flags & libc::RENAME_EXCHANGE != 0 {
            self.may_trade(law, *to, new, &there, &here)?;
        }
        // The device node that stays behind is a file in the old place.
        if flags & libc::RENAME_WHITEOUT != 0 && law.rules.judge(&here, false).hidden {
            return refuse(libc::EACCES);
        }
        Ok(())
    }

    fn may_trade(
        &self,
        law: &Law,
        directory: Directory<'_>,
        name: &Name<'_>,
        here: &State,
        there: &State,
    ) -> Result<(), Failure> {
        let stat = Stat::of_name(std::os::fd::AsFd::as_fd(&**directory.descriptor), name)?;
        let is_directory = stat.is_directory();
        let (here_verdict, there_verdict) = (law.rules.judge(here, is_directory), law.rules.judge(there, is_directory));
        if here_verdict.hidden {
            return refuse(libc::ENOENT);
        }
        if there_verdict.hidden {
            return refuse(libc::EACCES);
        }
        if here_verdict.frozen || there_verdict.frozen || self.inodes(|inodes| inodes.has_seen_frozen(law, &stat)) {
            return refuse(libc::EROFS);
        }
        if is_directory && here != there {
            return refuse(libc::EXDEV);
        }
        Ok(())
    }
}

/// The names in a request, as far as they are names.
struct Names<'c>(Fields<'c>);

impl<'c> Names<'c> {
    fn of(opcode: Opcode, body: &'c [u8]) -> Self {
        Self(Fields::new(body.get(least_request(opcode)..).unwrap_or_default()))
    }

    fn next(&mut self) -> Option<Name<'c>> {
        Name::component(self.0.string().ok()?).ok()
    }
}

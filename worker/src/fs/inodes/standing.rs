//! What path rules make of the nodes in the table: by the path that their references spell, and by what was seen.
//!
//! The guest's own renames keep every directory's state (they are refused otherwise), so states are kept per directory
//! and forgotten only when a directory is found in another place.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Directory, Errno, Inodes};
use crate::fs::law::Law;
use crate::fs::stat::Stat;
use crate::fuse::abi::ROOT_ID;
use crate::journal::{Identity, NodeRecord};
use crate::rules::{State, Verdict};

/// Directories whose state is kept.
const MAX_STATES: usize = 4096;
/// Frozen files with several names that are remembered after the guest has forgotten them. A guest that comes to
/// more may write no file with several names: any of them might be one that was not kept.
const MAX_REMEMBERED: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Standing {
    /// States of directories under the law of this version.
    states: FxHashMap<u64, Arc<State>>,
    version: u64,
    frozen: FxHashMap<Identity, Seen>,
    remembered: usize,
}

/// A file was seen under a frozen name: it stays frozen, whatever name it is found by later.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// The newest law that froze it.
    version: u64,
    /// It has other names: remembered until the session ends, not only as long as the node.
    lasting: bool,
}

impl Standing {
    fn note(&mut self, law: &Law, stat: &Stat) {
        let has_other_names = !stat.is_directory() && stat.attr.nlink > 1;
        let may_last = has_other_names && self.remembered < MAX_REMEMBERED;
        let seen = self.frozen.entry(stat.identity).or_default();
        seen.version = seen.version.max(law.version);
        if may_last && !seen.lasting {
            seen.lasting = true;
            self.remembered += 1;
        }
    }

    fn has_seen_frozen(&self, law: &Law, identity: &Identity) -> bool {
        self.frozen.get(identity).is_some_and(|seen| seen.version >= law.since)
    }

    fn keep(&mut self, id: u64, state: &Arc<State>) {
        if self.states.len() >= MAX_STATES {
            self.states.clear();
        }
        self.states.insert(id, Arc::clone(state));
    }

    /// A directory may be somewhere else now, and all that is in it.
    pub(super) fn moved(&mut self) {
        self.states.clear();
    }

    pub(super) fn removed(&mut self, node: &NodeRecord) {
        self.states.remove(&node.id);
        if self.frozen.get(&node.identity).is_some_and(|seen| !seen.lasting) {
            self.frozen.remove(&node.identity);
        }
    }
}

impl Inodes {
    /// What may be done with a node. What has no path any more is hidden and frozen.
    pub fn verdict(&mut self, law: &Law, id: u64) -> Result<Verdict, Errno> {
        let node = self.get(id)?;
        let mut verdict = match self.state(law, id) {
            Ok(state) => law.rules.judge(&state, node.kind == libc::S_IFDIR),
            Err(_) => Verdict { hidden: true, frozen: true },
        };
        verdict.frozen |= self.standing.has_seen_frozen(law, &node.identity) || (law.tree && id == ROOT_ID);
        Ok(verdict)
    }

    /// Whether a file was seen under a frozen name in this session, or may have been.
    pub fn has_seen_frozen(&self, law: &Law, stat: &Stat) -> bool {
        self.standing.has_seen_frozen(law, &stat.identity) || (self.remembers_all_it_can() && stat.attr.nlink > 1)
    }

    /// Whether the guest is to see a mount where these two meet. Not where a frozen subtree is mounted over itself: the
    /// guest's mount there would answer renames and removals with EBUSY, before the rule could say EROFS.
    pub(super) fn is_border(&self, above: &Identity, below: &Identity) -> bool {
        let is_over_itself = above.device == below.device && self.standing.frozen.contains_key(below);
        above.mount != below.mount && !is_over_itself
    }

    pub fn remembers_all_it_can(&self) -> bool {
        self.standing.remembered >= MAX_REMEMBERED
    }

    /// The state of *name* in the directory *id*.
    pub fn state_below(&mut self, law: &Law, id: u64, name: &[u8]) -> Result<State, Errno> {
        let state = self.state(law, id)?;
        Ok(law.rules.enter(&state, name))
    }

    /// Judges what was found as *name* before the guest hears of it: ENOENT if it is hidden, remembered if frozen.
    pub fn admit(&mut self, law: &Law, directory: Directory<'_>, name: &[u8], stat: &Stat) -> Result<(), Errno> {
        let state = self.state_below(law, directory.id, name)?;
        let verdict = law.rules.judge(&state, stat.is_directory());
        if verdict.hidden {
            return Err(Errno(libc::ENOENT));
        }
        // Known by another name, which the rules may have frozen only after it was found there.
        let known = self.find(&stat.identity).and_then(|node| self.verdict(law, node.id).ok());
        if verdict.frozen || known.is_some_and(|known| known.frozen && !known.hidden) {
            self.standing.note(law, stat);
        }
        Ok(())
    }

    /// The state of a node by the names that lead to it from the root. ENOENT when they do not.
    pub fn state(&mut self, law: &Law, id: u64) -> Result<Arc<State>, Errno> {
        if self.standing.version < law.version {
            self.standing.states.clear();
            self.standing.version = law.version;
        }
        // A request that began under an older law finds no states, and leaves none.
        let is_current = self.standing.version == law.version;
        let mut below = Vec::new();
        let mut current = id;
        let mut state = loop {
            if current == ROOT_ID {
                break Arc::clone(&law.root);
            }
            match self.standing.states.get(&current) {
                Some(state) if is_current => break Arc::clone(state),
                _ => {}
            }
            let node = self.get(current)?;
            // References that form a ring are longer than there are nodes.
            if node.parent == 0 || below.len() > self.live {
                return Err(Errno(libc::ENOENT));
            }
            current = node.parent;
            below.push(node);
        };
        while let Some(node) = below.pop() {
            let stored = self.names.read(&self.arena, node.name, node.id).ok_or(Errno(libc::ENOENT))?;
            state = Arc::new(law.rules.enter(&state, stored.name()));
            if is_current && node.kind == libc::S_IFDIR {
                self.standing.keep(node.id, &state);
            }
        }
        Ok(state)
    }

    /// Nodes that hold descriptors and are hidden now.
    pub fn held_and_hidden(&mut self, law: &Law) -> Vec<u64> {
        let held: Vec<u64> = self.held.keys().copied().collect();
        held.into_iter().filter(|&id| self.verdict(law, id).is_ok_and(|verdict| verdict.hidden)).collect()
    }
}

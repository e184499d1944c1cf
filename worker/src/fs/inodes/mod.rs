//! The inode table: references to files by (parent, name) and identity, kept in the arena.
//!
//! A node lives while the guest has looked it up, a handle is open on it, or another node's reference starts from it.
//! All of this is bookkeeping under one lock; no system call is made here. Descriptors that fall out of the table are
//! collected in `closing`, for the caller to close after the lock is gone.

mod standing;

use std::collections::hash_map::Entry;
use std::ffi::CStr;
use std::mem;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::descriptors::{Descriptor, EvictionQueue};
use super::failure::Errno;
use super::name::NameCopy;
use super::stat::Stat;
use crate::fuse::abi::ROOT_ID;
use crate::journal::{flags, Arena, Identity, NameHeap, NodeRecord, Place, Table};
use crate::stats::{Counter, Stats};
use standing::Standing;

/// An index that has come this far is not used again.
pub const LAST_SEQUENCE: u64 = u32::MAX as u64;

/// How a node will be known again, beyond its identity.
pub enum Witness {
    /// Its birth time alone tells it from every other.
    Birth,
    /// The bytes of its file handle.
    Handle(Vec<u8>),
    /// A descriptor that keeps the inode, and with it the number, in use.
    Descriptor(Arc<Descriptor>),
}

/// A directory as the caller holds it: node id and descriptor.
#[derive(Clone, Copy)]
pub struct Directory<'d> {
    pub id: u64,
    pub descriptor: &'d Arc<Descriptor>,
}

/// Descriptors open on a node; nodes without any have no entry.
#[derive(Default)]
struct Held {
    path: Option<Arc<Descriptor>>,
    opens: Vec<(u64, Arc<Descriptor>)>,
}

pub struct Inodes {
    arena: Arc<Arena>,
    table: Table<12>,
    names: NameHeap,
    by_identity: FxHashMap<Identity, u32>,
    held: FxHashMap<u64, Held>,
    standing: Standing,
    queue: EvictionQueue,
    free: Vec<u32>,
    live: usize,
    closing: Vec<Arc<Descriptor>>,
    stats: &'static Stats,
}

impl Inodes {
    /// An empty table over *arena*, with the share's root as its only node.
    pub fn new(arena: Arc<Arena>, root: Arc<Descriptor>, stat: &Stat, stats: &'static Stats) -> Self {
        let (table, names) = (arena.nodes(), NameHeap::over(&arena));
        let mut inodes = Self {
            arena,
            table,
            names,
            by_identity: FxHashMap::default(),
            held: FxHashMap::default(),
            standing: Standing::default(),
            queue: EvictionQueue::default(),
            free: Vec::new(),
            live: 0,
            closing: Vec::new(),
            stats,
        };
        inodes.reset(root, stat);
        inodes
    }

    /// Forgets every node but the root. Indices keep their sequence, so that old node ids stay unknown.
    pub fn reset(&mut self, root: Arc<Descriptor>, stat: &Stat) {
        self.free.clear();
        for index in (2..self.table.high_water(&self.arena)).rev() {
            if let Some((id, _)) = self.table.read(&self.arena, index) {
                self.table.free(&self.arena, id);
            }
            if self.table.last_id(&self.arena, index) >> 32 != LAST_SEQUENCE {
                self.free.push(index);
            }
        }
        self.table.set_high_water(&self.arena, self.table.high_water(&self.arena).max(2));
        self.names.clear(&self.arena);
        self.by_identity.clear();
        self.standing = Standing::default();
        self.queue.clear();
        self.live = 0;
        self.stats.set(Counter::Inodes, 0);
        let old = mem::take(&mut self.held).into_values();
        self.closing
            .extend(old.flat_map(|held| held.path.into_iter().chain(held.opens.into_iter().map(|open| open.1))));
        let record = NodeRecord {
            id: ROOT_ID,
            identity: stat.identity,
            kind: stat.kind(),
            flags: flags::ROOT,
            parent: 0,
            name: Place::NONE,
            lookups: 1,
            children: 0,
            descriptor: root.number(),
        };
        self.write(&record);
        self.by_identity.insert(stat.identity, ROOT_ID as u32);
        self.held.insert(ROOT_ID, Held { path: Some(root), opens: Vec::new() });
    }

    /// The record of *id*; ESTALE when the guest names a node it was never given, or has forgotten.
    pub fn get(&self, id: u64) -> Result<NodeRecord, Errno> {
        match self.table.read(&self.arena, id as u32) {
            Some((stored, payload)) if stored == id => Ok(NodeRecord::decode(id, &payload)),
            _ => Err(Errno(libc::ESTALE)),
        }
    }

    pub fn find(&self, identity: &Identity) -> Option<NodeRecord> {
        let index = *self.by_identity.get(identity)?;
        let (id, payload) = self.table.read(&self.arena, index)?;
        Some(NodeRecord::decode(id, &payload))
    }

    /// Number of nodes without the root.
    pub fn live(&self) -> usize {
        self.live
    }

    /// A descriptor of the node: that of a handle, or the `O_PATH` one.
    pub fn descriptor(&self, id: u64) -> Option<Arc<Descriptor>> {
        let held = self.held.get(&id)?;
        held.opens.first().map(|open| &open.1).or(held.path.as_ref()).map(Arc::clone)
    }

    /// Name and file handle (empty for none) of a node that has a reference.
    pub fn reference(&self, node: &NodeRecord) -> Result<(NameCopy, Vec<u8>), Errno> {
        let stored = self.names.read(&self.arena, node.name, node.id).ok_or(Errno(libc::ESTALE))?;
        Ok((NameCopy::of(stored.name()), stored.handle().to_vec()))
    }

    /// Whether the node's reference is *name* in *directory*.
    pub fn is_known_as(&self, node: &NodeRecord, directory: Directory<'_>, name: &CStr) -> bool {
        let stored = self.names.read(&self.arena, node.name, node.id);
        node.parent == directory.id && stored.is_some_and(|stored| stored.name() == name.to_bytes())
    }

    /// Counts one more lookup of a node by id.
    pub fn look_up_again(&mut self, id: u64) -> Result<(), Errno> {
        let mut node = self.get(id)?;
        if !node.has(flags::ROOT) {
            node.lookups = node.lookups.saturating_add(1);
            self.write(&node);
        }
        Ok(())
    }

    /// Counts one more lookup of a known node, found as *name* in *directory* just now: the newest name wins.
    pub fn refer(&mut self, mut node: NodeRecord, directory: Directory<'_>, name: &[u8]) -> Result<NodeRecord, Errno> {
        // Counted first, so that nothing that happens to its relatives can take the node away.
        node.lookups = node.lookups.saturating_add(1);
        self.write(&node);
        if let Err(errno) = self.rename(node, directory, name) {
            self.forget(node.id, 1);
            return Err(errno);
        }
        Ok(node)
    }

    /// Adds a node with one lookup. ENOMEM when the arena is full.
    pub fn insert(
        &mut self,
        directory: Directory<'_>,
        name: &[u8],
        stat: &Stat,
        witness: Witness,
    ) -> Result<NodeRecord, Errno> {
        let mut parent = self.get(directory.id)?;
        let (handle, pin) = match witness {
            Witness::Birth => (Vec::new(), None),
            Witness::Handle(bytes) => (bytes, None),
            Witness::Descriptor(descriptor) => (Vec::new(), Some(descriptor)),
        };
        let id = self.allocate().ok_or(Errno(libc::ENOMEM))?;
        let Some(place) = self.names.store(&self.arena, id, name, &handle) else {
            self.free.push(id as u32);
            return Err(Errno(libc::ENOMEM));
        };
        let mut set = 0;
        set |= if handle.is_empty() { 0 } else { flags::HAS_HANDLE };
        set |= if pin.is_some() { flags::UNPROVEN } else { 0 };
        set |= if self.is_border(&parent.identity, &stat.identity) { flags::SUBMOUNT } else { 0 };
        let node = NodeRecord {
            id,
            identity: stat.identity,
            kind: stat.kind(),
            flags: set,
            parent: parent.id,
            name: place,
            lookups: 1,
            children: 0,
            descriptor: -1,
        };
        self.write(&node);
        parent.children += 1;
        self.write(&parent);
        self.by_identity.insert(stat.identity, id as u32);
        self.live += 1;
        self.stats.set(Counter::Inodes, self.live as u64);
        if let Some(descriptor) = pin {
            self.keep_path(id, &descriptor);
        }
        Ok(node)
    }

    /// The identity has outlived every successor that could share it: the handle or the pin is no longer needed.
    pub fn trust(&mut self, mut node: NodeRecord) -> Result<NodeRecord, Errno> {
        if node.has(flags::HAS_HANDLE) {
            let stored = self.names.read(&self.arena, node.name, node.id).ok_or(Errno(libc::ESTALE))?;
            let place = self.names.store(&self.arena, node.id, stored.name(), &[]).ok_or(Errno(libc::ENOMEM))?;
            self.names.free(mem::replace(&mut node.name, place));
        }
        let was_pinned = node.has(flags::UNPROVEN);
        node.flags &= !(flags::HAS_HANDLE | flags::UNPROVEN);
        self.write(&node);
        if was_pinned {
            self.queue.push(node.id, node.kind == libc::S_IFDIR);
        }
        Ok(node)
    }

    /// Points a node's reference to *name* in *directory*, where it was seen just now.
    pub fn rename(&mut self, mut node: NodeRecord, directory: Directory<'_>, name: &[u8]) -> Result<(), Errno> {
        let stored = self.names.read(&self.arena, node.name, node.id);
        let same_name = stored.as_ref().is_some_and(|stored| stored.name() == name);
        let same_parent = node.parent == directory.id;
        let was_unlinked = node.has(flags::UNLINKED);
        if node.has(flags::ROOT) || (same_name && same_parent && !was_unlinked) {
            return Ok(());
        }
        let mut parent = self.get(directory.id)?;
        if !same_name {
            let handle = stored.as_ref().map_or(&[][..], |stored| stored.handle());
            let place = self.names.store(&self.arena, node.id, name, handle).ok_or(Errno(libc::ENOMEM))?;
            self.names.free(mem::replace(&mut node.name, place));
        }
        let makes_ring = !same_parent && node.kind == libc::S_IFDIR && self.is_above(node.id, directory.id);
        let old_parent = mem::replace(&mut node.parent, directory.id);
        node.flags &= !flags::UNLINKED;
        self.write(&node);
        if node.kind == libc::S_IFDIR {
            self.standing.moved();
        }
        if was_unlinked {
            self.queue.push(node.id, node.kind == libc::S_IFDIR);
        }
        if !same_parent {
            parent.children += 1;
            self.write(&parent);
            if makes_ring {
                self.detach(directory);
            }
            self.drop_child(old_parent);
        }
        Ok(())
    }

    /// Whether *upper* is among the ancestors of *lower* as the table has them, or is *lower* itself.
    fn is_above(&self, upper: u64, lower: u64) -> bool {
        let mut current = lower;
        for _ in 0..=self.live {
            if current == upper {
                return true;
            }
            match self.get(current) {
                Ok(node) if node.parent != 0 => current = node.parent,
                _ => return false,
            }
        }
        true
    }

    /// A directory was found below one of its own descendants: the host has moved things, and the descendant's
    /// reference is out of date. It is known by its descriptor alone from here on.
    fn detach(&mut self, directory: Directory<'_>) {
        if let Ok(mut node) = self.get(directory.id) {
            let old_parent = mem::take(&mut node.parent);
            node.flags |= flags::UNLINKED;
            self.write(&node);
            self.standing.moved();
            self.keep_path(directory.id, directory.descriptor);
            self.drop_child(old_parent);
        }
    }

    /// Closes the descriptor of a node that is hidden now. A node that only the descriptor could lead to is gone.
    pub fn let_go(&mut self, id: u64) {
        let Ok(mut node) = self.get(id) else { return };
        if node.has(flags::ROOT) {
            return;
        }
        if let Entry::Occupied(mut held) = self.held.entry(id) {
            self.closing.extend(held.get_mut().path.take());
            if held.get().opens.is_empty() {
                held.remove();
            }
        }
        node.descriptor = -1;
        let old_parent = if node.has(flags::PINNED) { mem::take(&mut node.parent) } else { 0 };
        self.write(&node);
        if old_parent != 0 {
            if self.by_identity.get(&node.identity) == Some(&(id as u32)) {
                self.by_identity.remove(&node.identity);
            }
            self.standing.moved();
            self.drop_child(old_parent);
        }
    }

    /// Keeps *descriptor* for a node, unless another thread was faster; returns the one that is kept.
    pub fn keep_path(&mut self, id: u64, descriptor: &Arc<Descriptor>) -> Arc<Descriptor> {
        let Ok(mut node) = self.get(id) else { return Arc::clone(descriptor) };
        let held = self.held.entry(id).or_default();
        if let Some(path) = &held.path {
            return Arc::clone(path);
        }
        held.path = Some(Arc::clone(descriptor));
        node.descriptor = descriptor.number();
        self.write(&node);
        self.queue.push(id, node.kind == libc::S_IFDIR);
        if self.queue.len() > 1024 + 2 * self.held.len() {
            let held = &self.held;
            self.queue.compact(|id| held.contains_key(&id));
        }
        Arc::clone(descriptor)
    }

    /// Gives up the oldest descriptor that can be opened again; false when there is none.
    pub fn evict(&mut self) -> bool {
        while let Some(id) = self.queue.pop() {
            let Ok(mut node) = self.get(id) else { continue };
            let Entry::Occupied(mut held) = self.held.entry(id) else { continue };
            if node.has(flags::PINNED) {
                continue;
            }
            let Some(path) = held.get_mut().path.take() else { continue };
            if held.get().opens.is_empty() {
                held.remove();
            }
            self.closing.push(path);
            node.descriptor = -1;
            self.write(&node);
            return true;
        }
        false
    }

    /// The name is about to go: *descriptor* keeps the node usable. Undone by [`Self::unpin`] or a later lookup.
    pub fn pin(&mut self, mut node: NodeRecord, descriptor: &Arc<Descriptor>) {
        node.flags |= flags::UNLINKED;
        self.write(&node);
        self.keep_path(node.id, descriptor);
    }

    /// The name has stayed after all.
    pub fn unpin(&mut self, id: u64) {
        if let Ok(mut node) = self.get(id) {
            node.flags &= !flags::UNLINKED;
            self.write(&node);
            self.queue.push(id, node.kind == libc::S_IFDIR);
        }
    }

    /// Registers an open handle. ESTALE when the node was forgotten meanwhile.
    pub fn attach(&mut self, id: u64, fh: u64, descriptor: &Arc<Descriptor>) -> Result<(), Errno> {
        self.get(id)?;
        self.held.entry(id).or_default().opens.push((fh, Arc::clone(descriptor)));
        Ok(())
    }

    /// A handle was closed.
    pub fn detach_open(&mut self, id: u64, fh: u64) {
        if let Entry::Occupied(mut entry) = self.held.entry(id) {
            let held = entry.get_mut();
            if let Some(index) = held.opens.iter().position(|open| open.0 == fh) {
                self.closing.push(held.opens.swap_remove(index).1);
            }
            if held.opens.is_empty() && held.path.is_none() {
                entry.remove();
            }
        }
        self.collect(id);
    }

    /// Takes back *count* lookups; more than there are count as all of them.
    pub fn forget(&mut self, id: u64, count: u64) {
        let Ok(mut node) = self.get(id) else { return };
        if node.has(flags::ROOT) {
            return;
        }
        node.lookups = node.lookups.saturating_sub(count);
        self.write(&node);
        self.collect(id);
    }

    /// Descriptors to close, now that the lock can be given up.
    pub fn take_closing(&mut self) -> Vec<Arc<Descriptor>> {
        mem::take(&mut self.closing)
    }

    fn drop_child(&mut self, parent: u64) {
        if let Ok(mut node) = self.get(parent) {
            node.children = node.children.saturating_sub(1);
            self.write(&node);
            self.collect(parent);
        }
    }

    /// Removes a node nobody counts on, and then its ancestors as far as they were kept only for it.
    fn collect(&mut self, id: u64) {
        let mut current = id;
        while let Ok(node) = self.get(current) {
            let is_open = self.held.get(&current).is_some_and(|held| !held.opens.is_empty());
            if node.lookups > 0 || node.children > 0 || is_open || node.has(flags::ROOT) {
                return;
            }
            self.remove(&node);
            let Ok(mut parent) = self.get(node.parent) else { return };
            parent.children = parent.children.saturating_sub(1);
            self.write(&parent);
            current = parent.id;
        }
    }

    fn remove(&mut self, node: &NodeRecord) {
        let index = node.id as u32;
        self.table.free(&self.arena, node.id);
        self.names.free(node.name);
        self.standing.removed(node);
        if self.by_identity.get(&node.identity) == Some(&index) {
            self.by_identity.remove(&node.identity);
        }
        if let Some(path) = self.held.remove(&node.id).and_then(|held| held.path) {
            self.closing.push(path);
        }
        if node.id >> 32 != LAST_SEQUENCE {
            self.free.push(index);
        }
        self.live = self.live.saturating_sub(1);
        self.stats.set(Counter::Inodes, self.live as u64);
    }

    /// A node id that was never given out in this arena.
    fn allocate(&mut self) -> Option<u64> {
        let Some(index) = self.free.pop() else {
            let fresh = self.table.high_water(&self.arena);
            if fresh >= self.table.capacity() {
                return None;
            }
            self.table.set_high_water(&self.arena, fresh + 1);
            return Some(u64::from(fresh));
        };
        let sequence = self.table.last_id(&self.arena, index) >> 32;
        Some(u64::from(index) | (sequence + 1) << 32)
    }

    fn write(&self, node: &NodeRecord) {
        self.table.write(&self.arena, node.id, &node.encode());
    }
}

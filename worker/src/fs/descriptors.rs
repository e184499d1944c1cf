//! The descriptor budget: how many the tables may hold, and who must give one back.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::stats::{Counter, Stats};

/// Counts descriptors against the limit. Taking a place comes before opening, dropping a [`Descriptor`] gives it back.
pub struct Budget {
    limit: usize,
    held: AtomicUsize,
    stats: &'static Stats,
}

/// A place in the budget that nothing is open for yet.
pub struct Slot {
    budget: Arc<Budget>,
}

/// A descriptor that belongs to a node or a handle, counted while it lives.
pub struct Descriptor {
    fd: OwnedFd,
    _slot: Option<Slot>,
}

impl Budget {
    /// Of *limit* descriptors an eighth, at least 24 and at most 512, is left to rings, memory slots and sockets.
    pub fn new(limit: usize, stats: &'static Stats) -> Arc<Self> {
        let reserve = (limit / 8).clamp(24, 512);
        Arc::new(Self { limit: limit.saturating_sub(reserve).max(4), held: AtomicUsize::new(0), stats })
    }

    /// `None` when the limit is reached.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let below = |held: usize| (held < self.limit).then_some(held + 1);
        self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, below).ok()?;
        self.stats.add(Counter::Descriptors, 1);
        Some(Slot { budget: Arc::clone(self) })
    }

    /// Whether a descriptor may be kept that nobody asked for.
    pub fn has_room(&self) -> bool {
        self.held.load(Ordering::Relaxed) < self.limit / 2
    }

    #[cfg(test)]
    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl Slot {
    pub fn fill(self, fd: OwnedFd) -> Arc<Descriptor> {
        Arc::new(Descriptor { fd, _slot: Some(self) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(1, Ordering::AcqRel);
        // The counter wraps: adding the largest value takes one away.
        self.budget.stats.add(Counter::Descriptors, u64::MAX);
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Descriptor {
    /// The share itself: held for the whole session and not counted.
    pub fn uncounted(fd: OwnedFd) -> Arc<Self> {
        Arc::new(Self { fd, _slot: None })
    }

    pub fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Nodes whose `O_PATH` descriptor may be closed, in the order they were opened; directories go last, since others
/// are found through them. Entries may be out of date: the table decides when one comes up.
#[derive(Debug, Default)]
pub struct EvictionQueue {
    files: VecDeque<u64>,
    directories: VecDeque<u64>,
}

impl EvictionQueue {
    pub fn push(&mut self, node: u64, is_directory: bool) {
        if is_directory {
            self.directories.push_back(node);
        } else {
            self.files.push_back(node);
        }
    }

    pub fn pop(&mut self) -> Option<u64> {
        self.files.pop_front().or_else(|| self.directories.pop_front())
    }

    pub fn len(&self) -> usize {
        self.files.len() + self.directories.len()
    }

    /// Drops entries that *keep* does not confirm, and repeated ones.
    pub fn compact(&mut self, keep: impl Fn(u64) -> bool) {
        let mut seen = FxHashSet::default();
        self.files.retain(|&node| keep(node) && seen.insert(node));
        self.directories.retain(|&node| keep(node) && seen.insert(node));
    }

    pub fn clear(&mut self) {
        self.files.clear();
        self.directories.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_when_its_descriptor_is_dropped() {
        let budget = Budget::new(28, Box::leak(Box::new(Stats::private())));
        let slots: Vec<_> = (0..4).map(|_| budget.take()).collect();
        assert!(slots.iter().all(Option::is_some));
        assert!(budget.take().is_none());
        drop(slots);
        assert_eq!((budget.held(), budget.stats.get(Counter::Descriptors)), (0, 0));
    }

    #[test]
    fn directories_are_evicted_last() {
        let mut queue = EvictionQueue::default();
        for (node, is_directory) in [(1, true), (2, false), (3, true), (4, false)] {
            queue.push(node, is_directory);
        }
        assert_eq!(std::iter::from_fn(|| queue.pop()).collect::<Vec<_>>(), [2, 4, 1, 3]);
    }
}

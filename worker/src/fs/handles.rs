//! The handle table: open files and directories, kept in the arena beside what only this process needs of them.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use super::descriptors::Descriptor;
use super::directory::Stream;
use super::failure::Errno;
use super::inodes::LAST_SEQUENCE;
use crate::journal::{Arena, HandleRecord, Table};
use crate::stats::{Counter, Stats};

/// An open file or directory. A request that uses it holds the `Arc`, so that a RELEASE beside it closes later.
pub struct OpenFile {
    pub fh: u64,
    pub node: u64,
    pub descriptor: Arc<Descriptor>,
    pub open_flags: i32,
    /// Reading position of a directory; `None` for files.
    pub stream: Option<Mutex<Stream>>,
}

impl OpenFile {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    pub fn is_writable(&self) -> bool {
        self.stream.is_none() && self.open_flags & libc::O_ACCMODE != libc::O_RDONLY
    }
}

pub struct Handles {
    arena: Arc<Arena>,
    table: Table<4>,
    open: Vec<Option<Arc<OpenFile>>>,
    free: Vec<u32>,
    live: usize,
    stats: &'static Stats,
}

impl Handles {
    pub fn new(arena: Arc<Arena>, stats: &'static Stats) -> Self {
        let table = arena.handles();
        Self { arena, table, open: vec![None], free: Vec::new(), live: 0, stats }
    }

    /// Opens a handle. ENFILE when the table is full.
    pub fn insert(
        &mut self,
        node: u64,
        descriptor: Arc<Descriptor>,
        open_flags: i32,
        stream: Option<Stream>,
    ) -> Result<Arc<OpenFile>, Errno> {
        let fh = self.allocate().ok_or(Errno(libc::ENFILE))?;
        let file = OpenFile { fh, node, descriptor, open_flags, stream: stream.map(Mutex::new) };
        let record = HandleRecord {
            fh,
            node,
            directory: file.stream.is_some(),
            open_flags,
            descriptor: file.descriptor.number(),
        };
        self.table.write(&self.arena, fh, &record.encode());
        let file = Arc::new(file);
        if let Some(place) = self.open.get_mut(fh as u32 as usize) {
            *place = Some(Arc::clone(&file));
        }
        self.count(self.live + 1);
        Ok(file)
    }

    /// EBADF when *fh* is not open, or not on *node*.
    pub fn get(&self, fh: u64, node: u64) -> Result<Arc<OpenFile>, Errno> {
        match self.open.get(fh as u32 as usize) {
            Some(Some(file)) if file.fh == fh && file.node == node => Ok(Arc::clone(file)),
            _ => Err(Errno(libc::EBADF)),
        }
    }

    /// Closes a handle; the descriptor goes with the last request that uses it.
    pub fn remove(&mut self, fh: u64, node: u64) -> Result<Arc<OpenFile>, Errno> {
        let file = self.get(fh, node)?;
        if let Some(place) = self.open.get_mut(fh as u32 as usize) {
            *place = None;
        }
        self.table.free(&self.arena, fh);
        if fh >> 32 != LAST_SEQUENCE {
            self.free.push(fh as u32);
        }
        self.count(self.live.saturating_sub(1));
        Ok(file)
    }

    /// Closes the handles on nodes that *is_meant* names; returned so that they are closed outside the lock.
    pub fn remove_all_on(&mut self, is_meant: impl Fn(u64) -> bool) -> Vec<Arc<OpenFile>> {
        let meant = |file: &&Arc<OpenFile>| is_meant(file.node);
        let found: Vec<_> = self.open.iter().flatten().filter(meant).map(|file| (file.fh, file.node)).collect();
        found.into_iter().filter_map(|(fh, node)| self.remove(fh, node).ok()).collect()
    }

    /// Closes all handles; returned so that they are closed outside the lock.
    pub fn reset(&mut self) -> Vec<Arc<OpenFile>> {
        let files: Vec<_> = self.open.iter_mut().filter_map(Option::take).collect();
        for file in &files {
            self.table.free(&self.arena, file.fh);
        }
        let (table, arena) = (self.table, &self.arena);
        let is_usable = |&index: &u32| table.last_id(arena, index) >> 32 != LAST_SEQUENCE;
        self.free = (1..self.open.len() as u32).rev().filter(is_usable).collect();
        self.count(0);
        files
    }

    fn count(&mut self, live: usize) {
        self.live = live;
        self.stats.set(Counter::Handles, live as u64);
    }

    /// A handle number that was never given out in this arena.
    fn allocate(&mut self) -> Option<u64> {
        if let Some(index) = self.free.pop() {
            let sequence = self.table.last_id(&self.arena, index) >> 32;
            return Some(u64::from(index) | (sequence + 1) << 32);
        }
        let fresh = self.open.len() as u32;
        if fresh >= self.table.capacity() {
            return None;
        }
        self.open.push(None);
        self.table.set_high_water(&self.arena, fresh + 1);
        Some(u64::from(fresh))
    }
}

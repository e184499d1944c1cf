//! The mapping and its division into tables.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::table::Table;

const MAGIC: u64 = u64::from_le_bytes(*b"VFSARENA");
const LAYOUT_VERSION: u64 = 1;
const HEADER_WORDS: usize = 512;
const MAX_HANDLES: usize = 1 << 16;
const MIN_BYTES: usize = 64 * 1024;
const WORDS_PER_UNIT: usize = 4;

/// Words of the header page.
mod header {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 1;
    pub const BYTES: usize = 2;
    pub const NODE_MARK: usize = 8;
    pub const HANDLE_MARK: usize = 9;
    pub const NAME_MARK: usize = 10;
}

/// Where the tables lie, in words from the start; follows from the size alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub nodes: u32,
    pub handles: u32,
    pub name_units: u32,
    pub(super) node_base: usize,
    pub(super) handle_base: usize,
    pub(super) name_base: usize,
}

impl Layout {
    /// Divides *bytes*: a 16th for handles at most, the rest in equal numbers of records and 112-byte name shares.
    fn of(bytes: usize) -> Option<Self> {
        if bytes < MIN_BYTES {
            return None;
        }
        let words = bytes / 8 - HEADER_WORDS;
        let handles = (words / 16 / Table::<4>::RECORD_WORDS).min(MAX_HANDLES);
        let left = words - handles * Table::<4>::RECORD_WORDS;
        let nodes = (left / (Table::<12>::RECORD_WORDS + 14)).min(u32::MAX as usize / 2);
        let name_base = HEADER_WORDS + nodes * Table::<12>::RECORD_WORDS + handles * Table::<4>::RECORD_WORDS;
        let name_units = ((bytes / 8 - name_base) / WORDS_PER_UNIT).min(u32::MAX as usize / 2);
        Some(Self {
            nodes: nodes as u32,
            handles: handles as u32,
            name_units: name_units as u32,
            node_base: HEADER_WORDS,
            handle_base: HEADER_WORDS + nodes * Table::<12>::RECORD_WORDS,
            name_base,
        })
    }
}

/// A shared mapping of the arena memfd. Words are atomics, since a dying worker's successor reads them too.
pub struct Arena {
    start: NonNull<AtomicU64>,
    words: usize,
    layout: Layout,
}

// SAFETY: the mapping is only reached as &AtomicU64, which any thread may use.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps *memfd* and starts a new, empty arena in it.
    pub fn create(memfd: &OwnedFd) -> io::Result<Self> {
        let arena = Self::map(memfd)?;
        let bytes = arena.words as u64 * 8;
        for (place, value) in [
            (header::NODE_MARK, 1),
            (header::HANDLE_MARK, 1),
            (header::NAME_MARK, 0),
            (header::VERSION, LAYOUT_VERSION),
            (header::BYTES, bytes),
            (header::MAGIC, MAGIC),
        ] {
            arena.store(place, value);
        }
        Ok(arena)
    }

    /// Maps an arena that another worker wrote. EINVAL when *memfd* does not hold one of this layout.
    pub fn adopt(memfd: &OwnedFd) -> io::Result<Self> {
        let arena = Self::map(memfd)?;
        let expected =
            [(header::MAGIC, MAGIC), (header::VERSION, LAYOUT_VERSION), (header::BYTES, arena.words as u64 * 8)];
        if expected.iter().all(|&(place, value)| arena.load(place) == value) {
            Ok(arena)
        } else {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
    }

    fn map(memfd: &OwnedFd) -> io::Result<Self> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        // syscall fcntl: duplicating the descriptor for the size query
        // syscall statx: size of the arena at start
        let bytes = File::from(memfd.as_fd().try_clone_to_owned()?).metadata()?.len();
        let bytes = usize::try_from(bytes).map_err(|_| invalid())? & !7;
        let layout = Layout::of(bytes).ok_or_else(invalid)?;
        // syscall mmap: the arena, once at start
        // SAFETY: a fresh shared mapping of a descriptor that holds that many bytes and, as the memfd is sealed
        // against shrinking, goes on doing so.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                memfd.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(address.cast()).ok_or_else(invalid)?;
        Ok(Self { start, words: bytes / 8, layout })
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The node table; its records are [`super::NodeRecord`]s.
    pub fn nodes(&self) -> Table<12> {
        Table { base: self.layout.node_base, capacity: self.layout.nodes, mark: header::NODE_MARK }
    }

    /// The handle table; its records are [`super::HandleRecord`]s.
    pub fn handles(&self) -> Table<4> {
        Table { base: self.layout.handle_base, capacity: self.layout.handles, mark: header::HANDLE_MARK }
    }

    pub(super) const NAME_MARK: usize = header::NAME_MARK;

    pub(super) fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.words {
            return None;
        }
        // SAFETY: below the length of the mapping, which lives as long as self; mmap gave page alignment.
        Some(unsafe { self.start.add(index).as_ref() })
    }

    /// 0 outside the arena.
    pub(super) fn load(&self, index: usize) -> u64 {
        self.word(index).map_or(0, |word| u64::from_le(word.load(Ordering::Relaxed)))
    }

    pub(super) fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.word(index) {
            word.store(value.to_le(), Ordering::Relaxed);
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // syscall munmap: only when a start-up or a test ends; a worker keeps its arena for life
        // SAFETY: the mapping made in map(), of that length, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * 8) };
    }
}

//! The statistics page: counters the supervisor may read and must not believe (ipc/README.md, "Statistics page").

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limit::Class;

pub const PAGE_BYTES: usize = 4096;
pub const MAGIC: u64 = u64::from_le_bytes(*b"VFSTATS1");
pub const LAYOUT_VERSION: u64 = 1;

/// Index of a single counter in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    Magic = 0,
    Version = 1,
    Generation = 2,
    Mounted = 3,
    Requests = 4,
    Errors = 5,
    BytesRead = 6,
    BytesWritten = 7,
    Malformed = 8,
    RingErrors = 9,
    Interrupts = 10,
    Kicks = 11,
    Inodes = 12,
    Handles = 13,
    Descriptors = 14,
    LogDropped = 15,
    OldestStart = 16,
    Overdue = 17,
}

const REQUESTS_BY_OPCODE: usize = 32;
const ERRORS_BY_OPCODE: usize = 96;
const OPCODES: usize = 64;
/// For each class of limits: admitted, delayed, nanoseconds delayed, bytes.
pub const LIMITS_BY_CLASS: usize = 160;
const LIMIT_WORDS: usize = 4;
const WORDS: usize = PAGE_BYTES / 8;

/// The page, mapped shared. Lives as long as the process: it is never unmapped.
pub struct Stats {
    words: &'static [AtomicU64; WORDS],
}

impl Stats {
    /// Maps the page behind *memfd*, which must hold at least [`PAGE_BYTES`], and writes its header.
    pub fn map(memfd: BorrowedFd<'_>, generation: u32) -> io::Result<Self> {
        let file = File::from(memfd.try_clone_to_owned()?);
        if file.metadata()?.len() < PAGE_BYTES as u64 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // syscall mmap: the statistics page
        // SAFETY: a fresh shared mapping of a descriptor that holds the whole page; the memfd is sealed against
        // shrinking, so the mapping stays backed.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                memfd.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(address.cast::<[AtomicU64; WORDS]>())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // SAFETY: page-aligned, PAGE_BYTES long, never unmapped; AtomicU64 tolerates writes from other processes.
        let stats = Self { words: unsafe { words.as_ref() } };
        stats.set(Counter::Version, LAYOUT_VERSION);
        stats.set(Counter::Generation, u64::from(generation));
        stats.set(Counter::Magic, MAGIC);
        Ok(stats)
    }

    /// A page in private memory, for tests.
    pub fn private() -> Self {
        let words = Box::leak(Box::new([const { AtomicU64::new(0) }; WORDS]));
        Self { words }
    }

    pub fn add(&self, counter: Counter, amount: u64) {
        self.words[counter as usize].fetch_add(amount, Ordering::Relaxed);
    }

    pub fn set(&self, counter: Counter, value: u64) {
        self.words[counter as usize].store(value, Ordering::Relaxed);
    }

    pub fn get(&self, counter: Counter) -> u64 {
        self.words[counter as usize].load(Ordering::Relaxed)
    }

    /// Counts one request that a limit has let in: *moved* bytes, after *waited* nanoseconds.
    pub fn admitted(&self, class: Class, moved: u64, waited: u64) {
        let first = LIMITS_BY_CLASS + LIMIT_WORDS * class as usize;
        for (word, amount) in [1, u64::from(waited > 0), waited, moved].into_iter().enumerate() {
            self.words[first + word].fetch_add(amount, Ordering::Relaxed);
        }
    }

    /// Counts one finished request: its opcode and, unless *errno* is 0, its error.
    pub fn request(&self, opcode: u32, errno: i32) {
        let slot = (opcode as usize).min(OPCODES - 1);
        self.add(Counter::Requests, 1);
        self.words[REQUESTS_BY_OPCODE + slot].fetch_add(1, Ordering::Relaxed);
        if errno != 0 {
            self.add(Counter::Errors, 1);
            self.words[ERRORS_BY_OPCODE + slot].fetch_add(1, Ordering::Relaxed);
        }
    }
}

//! The statistics page: counters the supervisor may read and must not believe (ipc/README.md, "Statistics page").

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fuse::Opcode;
use crate::limit::Class;

pub const PAGE_BYTES: usize = 4096;
pub const MAGIC: u64 = u64::from_le_bytes(*b"VFSTATS1");
pub const LAYOUT_VERSION: u64 = 2;

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
/// For each class: requests by how long they took, in buckets that double.
pub const LATENCY_BY_CLASS: usize = 176;
/// The first bucket ends at 2^10 ns, each at twice the one before, the last but one at 2^34 ns; the last has no end.
pub const BUCKETS: usize = 26;
const FIRST_BUCKET_BITS: u32 = 10;
/// For each ring: requests in it now, most since launch, batches published, requests given back. A cache line each,
/// since each has a writer of its own.
pub const RINGS: usize = 256;
pub const MAX_RINGS: usize = 9;
const RING_WORDS: usize = 8;
pub const NANOSECONDS_BY_OPCODE: usize = 328;
/// For each class: errors by their place in [`ERRNOS`].
pub const ERRORS_BY_CLASS: usize = 392;
const WORDS: usize = PAGE_BYTES / 8;

/// What is counted by name; 0, the first, stands for every other.
pub const ERRNOS: [i32; 36] = [
    0,
    libc::EPERM,
    libc::ENOENT,
    libc::EINTR,
    libc::EIO,
    libc::ENXIO,
    libc::EBADF,
    libc::EAGAIN,
    libc::ENOMEM,
    libc::EACCES,
    libc::EBUSY,
    libc::EEXIST,
    libc::EXDEV,
    libc::ENODEV,
    libc::ENOTDIR,
    libc::EISDIR,
    libc::EINVAL,
    libc::ENFILE,
    libc::EMFILE,
    libc::ETXTBSY,
    libc::EFBIG,
    libc::ENOSPC,
    libc::EROFS,
    libc::EMLINK,
    libc::ERANGE,
    libc::ENAMETOOLONG,
    libc::ENOLCK,
    libc::ENOSYS,
    libc::ENOTEMPTY,
    libc::ELOOP,
    libc::ENODATA,
    libc::EOVERFLOW,
    libc::EOPNOTSUPP,
    libc::ESTALE,
    libc::EUCLEAN,
    libc::EDQUOT,
];

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
        self.count(counter as usize, amount);
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
            self.count(first + word, amount);
        }
    }

    /// Counts one finished request: its opcode and, unless *errno* is 0, its error.
    pub fn request(&self, opcode: u32, errno: i32) {
        let slot = (opcode as usize).min(OPCODES - 1);
        self.add(Counter::Requests, 1);
        self.count(REQUESTS_BY_OPCODE + slot, 1);
        if errno != 0 {
            self.add(Counter::Errors, 1);
            self.count(ERRORS_BY_OPCODE + slot, 1);
            let place = ERRNOS.iter().position(|known| *known == errno).unwrap_or(0);
            self.count(ERRORS_BY_CLASS + ERRNOS.len() * class(opcode) as usize + place, 1);
        }
    }

    /// Counts how long one request took to serve; what a limit held it back before does not belong to it.
    pub fn took(&self, opcode: u32, nanoseconds: u64) {
        self.count(LATENCY_BY_CLASS + BUCKETS * class(opcode) as usize + bucket(nanoseconds), 1);
        self.count(NANOSECONDS_BY_OPCODE + (opcode as usize).min(OPCODES - 1), nanoseconds);
    }

    /// Ring *ring* holds *depth* requests that have no answer yet. Only that ring's thread says so.
    pub fn holds(&self, ring: usize, depth: u16) {
        let [now, highest, ..] = self.ring(ring);
        now.store(depth.into(), Ordering::Relaxed);
        if highest.load(Ordering::Relaxed) < depth.into() {
            highest.store(depth.into(), Ordering::Relaxed);
        }
    }

    /// Ring *ring* shows the driver *answers* at once.
    pub fn published(&self, ring: usize, answers: u16) {
        let [_, _, batches, given_back] = self.ring(ring);
        batches.fetch_add(1, Ordering::Relaxed);
        given_back.fetch_add(answers.into(), Ordering::Relaxed);
    }

    fn ring(&self, ring: usize) -> [&AtomicU64; 4] {
        let first = RINGS + RING_WORDS * ring.min(MAX_RINGS - 1);
        [first, first + 1, first + 2, first + 3].map(|word| &self.words[word])
    }

    fn count(&self, word: usize, amount: u64) {
        self.words[word].fetch_add(amount, Ordering::Relaxed);
    }

    #[cfg(test)]
    fn word(&self, word: usize) -> u64 {
        self.words[word].load(Ordering::Relaxed)
    }
}

fn class(opcode: u32) -> Class {
    Class::of(Opcode::from_number(opcode))
}

/// Which bucket counts a request that took so long; each includes its end.
fn bucket(nanoseconds: u64) -> usize {
    let bits = u64::BITS - nanoseconds.saturating_sub(1).leading_zeros();
    (bits.saturating_sub(FIRST_BUCKET_BITS) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_at_a_power_of_two_and_includes_it() {
        assert_eq!([0, 1, 1024].map(bucket), [0; 3]);
        for number in 1..BUCKETS - 1 {
            let end = 1 << (FIRST_BUCKET_BITS as usize + number);
            assert_eq!([end / 2 + 1, end, end + 1].map(bucket), [number, number, number + 1]);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn an_error_is_counted_by_name_for_the_class_of_its_request() {
        let stats = Stats::private();
        stats.request(Opcode::Lookup as u32, libc::ENOENT);
        stats.request(Opcode::Write as u32, libc::ENOSPC);
        stats.request(Opcode::Write as u32, libc::EPROTO);
        stats.request(Opcode::Read as u32, 0);
        let place = |errno| ERRNOS.iter().position(|known| *known == errno).expect("named");
        let of = |class: Class, place| stats.word(ERRORS_BY_CLASS + ERRNOS.len() * class as usize + place);
        assert_eq!(of(Class::Metadata, place(libc::ENOENT)), 1);
        assert_eq!((of(Class::Write, place(libc::ENOSPC)), of(Class::Write, 0)), (1, 1));
        let all: u64 = (0..3 * ERRNOS.len()).map(|word| stats.word(ERRORS_BY_CLASS + word)).sum();
        assert_eq!((all, stats.get(Counter::Errors)), (3, 3));
    }

    #[test]
    fn no_two_counters_share_a_word() {
        let parts = [
            (0, Counter::Overdue as usize + 1),
            (REQUESTS_BY_OPCODE, OPCODES),
            (ERRORS_BY_OPCODE, OPCODES),
            (LIMITS_BY_CLASS, Class::ALL.len() * LIMIT_WORDS),
            (LATENCY_BY_CLASS, Class::ALL.len() * BUCKETS),
            (RINGS, MAX_RINGS * RING_WORDS),
            (NANOSECONDS_BY_OPCODE, OPCODES),
            (ERRORS_BY_CLASS, Class::ALL.len() * ERRNOS.len()),
            (WORDS, 0),
        ];
        for (one, next) in parts.iter().zip(&parts[1..]) {
            assert!(one.0 + one.1 <= next.0, "{one:?} reaches into {next:?}");
        }
    }

    #[test]
    fn the_highest_depth_of_a_ring_stays_and_a_ring_beyond_the_page_harms_nobody() {
        let stats = Stats::private();
        stats.holds(1, 7);
        stats.holds(1, 2);
        stats.holds(usize::MAX, 9);
        let of = |ring: usize| (stats.word(RINGS + RING_WORDS * ring), stats.word(RINGS + RING_WORDS * ring + 1));
        assert_eq!((of(1), of(0), of(MAX_RINGS - 1)), ((2, 7), (0, 0), (9, 9)));
    }
}

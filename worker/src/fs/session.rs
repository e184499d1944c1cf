//! What guest and server agree on at INIT, and how long the guest may cache.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::failure::{refuse, Failure};
use crate::config::{CacheMode, Config};
use crate::fuse::abi::{fopen, init, INIT_BYTES, MAJOR, MINOR, OLDEST_MINOR};
use crate::fuse::reply::Validity;
use crate::fuse::request::Fields;
use crate::fuse::Encoder;
use crate::limit::Limiter;

/// Most bytes in one READ or WRITE.
pub const MAX_WRITE: u32 = 1 << 20;
const PAGE: u32 = 4096;
/// Requests that the guest may have in the background; the rings bound them before this does.
const MAX_BACKGROUND: u16 = 4096;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
/// Set beside the granted flags, so that a session without any flag is one all the same.
const STARTED: u64 = 1 << 63;

/// What the guest may have going at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// In one READ or WRITE: whole pages.
    pub bytes: u32,
    /// Requests that nobody in the guest waits for.
    pub background: u16,
}

impl Most {
    /// What *limiter* leaves: of a ring of *ring* entries, throttled requests in the background fill a quarter at most.
    pub fn under(limiter: &Limiter, ring: u16) -> Self {
        if !limiter.is_set() {
            return Self { bytes: MAX_WRITE, background: MAX_BACKGROUND };
        }
        Self { bytes: limiter.chunk() as u32, background: (ring / 4).max(1) }
    }
}

/// What INIT came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    Mounted {
        minor: u32,
        flags: u64,
    },
    /// The guest spoke a newer major version and is told ours; it will start over.
    TryAgain,
}

/// The session's state: absent, or the flags that were granted.
#[derive(Debug)]
pub struct Session {
    cache: CacheMode,
    writeback: bool,
    validity: Validity,
    granted: AtomicU64,
}

impl Session {
    pub fn new(config: &Config) -> Self {
        let by_mode = match config.cache {
            CacheMode::Never => Duration::ZERO,
            CacheMode::Auto => SECOND,
            CacheMode::Metadata | CacheMode::Always => DAY,
        };
        let wanted = config.timeout_ms.map_or(by_mode, |milliseconds| Duration::from_millis(milliseconds.into()));
        let validity = Validity { entry: wanted, attr: wanted };
        Self { cache: config.cache, writeback: config.writeback, validity, granted: AtomicU64::new(0) }
    }

    pub fn is_started(&self) -> bool {
        self.granted.load(Ordering::Acquire) & STARTED != 0
    }

    pub fn start(&self, flags: u64) {
        self.granted.store(flags | STARTED, Ordering::Release);
    }

    /// Ends the session; returns whether there was one.
    pub fn end(&self) -> bool {
        self.granted.swap(0, Ordering::AcqRel) & STARTED != 0
    }

    pub fn has(&self, flag: u64) -> bool {
        self.granted.load(Ordering::Relaxed) & flag != 0
    }

    /// Flags that are true of this server.
    fn offered(&self) -> u64 {
        let mut flags = init::ASYNC_READ
            | init::ATOMIC_O_TRUNC
            | init::BIG_WRITES
            | init::ASYNC_DIO
            | init::PARALLEL_DIROPS
            | init::MAX_PAGES
            | init::SUBMOUNTS
            | init::INIT_EXT;
        if self.cache != CacheMode::Always {
            flags |= init::AUTO_INVAL_DATA;
        }
        if self.cache != CacheMode::Never {
            flags |= init::DO_READDIRPLUS | init::READDIRPLUS_AUTO;
        }
        if self.writeback {
            flags |= init::WRITEBACK_CACHE;
        }
        flags
    }

    /// Reads INIT and encodes its reply. EPROTO for a guest whose protocol is too old.
    pub fn greet(&self, body: &[u8], most: Most, out: &mut Encoder) -> Result<Greeting, Failure> {
        let mut fields = Fields::new(body);
        let (major, minor) = (fields.u32()?, fields.u32()?);
        if major > MAJOR {
            encode_init(out, 0, 0, most);
            return Ok(Greeting::TryAgain);
        }
        if major < MAJOR || minor < OLDEST_MINOR {
            return refuse(libc::EPROTO);
        }
        let (readahead, low) = (fields.u32()?, fields.u32()?);
        let mut wanted = u64::from(low);
        if wanted & init::INIT_EXT != 0 {
            wanted |= u64::from(fields.u32()?) << 32;
        }
        let flags = wanted & self.offered();
        encode_init(out, readahead, flags, most);
        Ok(Greeting::Mounted { minor, flags })
    }

    pub fn validity(&self) -> Validity {
        self.validity
    }

    pub fn file_flags(&self) -> u32 {
        match self.cache {
            CacheMode::Never | CacheMode::Metadata => fopen::DIRECT_IO,
            CacheMode::Auto => 0,
            CacheMode::Always => fopen::KEEP_CACHE,
        }
    }

    pub fn directory_flags(&self) -> u32 {
        match self.cache {
            CacheMode::Never | CacheMode::Auto => 0,
            CacheMode::Metadata | CacheMode::Always => fopen::CACHE_DIR | fopen::KEEP_CACHE,
        }
    }

    /// The guest's page cache reads around partial writes, so a write-only file must be readable for it.
    pub fn host_access(&self, open_flags: i32) -> i32 {
        let access = open_flags & libc::O_ACCMODE;
        if access == libc::O_WRONLY && self.has(init::WRITEBACK_CACHE) {
            libc::O_RDWR
        } else {
            access
        }
    }
}

/// `struct fuse_init_out`.
fn encode_init(out: &mut Encoder, readahead: u32, flags: u64, most: Most) {
    for value in [MAJOR, MINOR, readahead, flags as u32] {
        out.u32(value);
    }
    out.u16(most.background);
    out.u16((most.background / 4 * 3).max(1)); // from here on the guest takes itself for congested
    out.u32(most.bytes);
    out.u32(1); // granularity of times: nanoseconds
    out.u16((most.bytes / PAGE) as u16);
    out.u16(0);
    out.u32((flags >> 32) as u32);
    out.zeros(INIT_BYTES - out.len());
}

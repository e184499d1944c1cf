//! Numbers of the protocol: opcodes, flags and structure sizes.

/// The major version spoken; any other is answered with this one.
pub const MAJOR: u32 = 7;
/// The newest minor version whose structures this server uses.
pub const MINOR: u32 = 38;
/// Older guests lack structures that are taken for granted here (Linux 4.20 speaks 7.28).
pub const OLDEST_MINOR: u32 = 27;

pub const IN_HEADER_BYTES: usize = 40;
pub const OUT_HEADER_BYTES: usize = 16;
pub const ENTRY_BYTES: usize = 128;
pub const ATTR_BYTES: usize = 104;
pub const OPEN_BYTES: usize = 16;
pub const INIT_BYTES: usize = 64;
pub const STATFS_BYTES: usize = 80;
pub const DIRENT_BYTES: usize = 24;
pub const WRITE_IN_BYTES: usize = 40;
pub const FORGET_ONE_BYTES: usize = 16;

pub const ROOT_ID: u64 = 1;
pub const MAX_NAME_BYTES: usize = 255;

macro_rules! opcodes {
    ($($name:ident = $number:literal),+ $(,)?) => {
        /// A request this server knows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Opcode { $($name = $number),+ }

        impl Opcode {
            /// Every opcode, for tests that go through all of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            pub fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

opcodes! {
    Lookup = 1, Forget = 2, Getattr = 3, Setattr = 4, Readlink = 5, Symlink = 6, Mknod = 8, Mkdir = 9, Unlink = 10,
    Rmdir = 11, Rename = 12, Link = 13, Open = 14, Read = 15, Write = 16, Statfs = 17, Release = 18, Fsync = 20,
    Setxattr = 21, Getxattr = 22, Listxattr = 23, Removexattr = 24, Flush = 25, Init = 26, Opendir = 27, Readdir = 28,
    Releasedir = 29, Fsyncdir = 30, Access = 34, Create = 35, Interrupt = 36, Destroy = 38, BatchForget = 42,
    Fallocate = 43, Readdirplus = 44, Rename2 = 45, Lseek = 46, CopyFileRange = 47, Syncfs = 50,
}

/// Flags of INIT; those from bit 32 on travel in `flags2`.
pub mod init {
    pub const ASYNC_READ: u64 = 1;
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const WRITEBACK_CACHE: u64 = 1 << 16;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const SUBMOUNTS: u64 = 1 << 27;
    pub const INIT_EXT: u64 = 1 << 30;
}

/// Flags of an OPEN, OPENDIR or CREATE reply.
pub mod fopen {
    pub const DIRECT_IO: u32 = 1;
    pub const KEEP_CACHE: u32 = 1 << 1;
    pub const CACHE_DIR: u32 = 1 << 3;
}

/// Bits of SETATTR's `valid`.
pub mod setattr {
    pub const MODE: u32 = 1;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    /// Bits that say what to change, and not how or by which handle.
    pub const CHANGES: u32 = MODE | UID | GID | SIZE | ATIME | MTIME;
}

pub const GETATTR_FH: u32 = 1;
pub const WRITE_CACHE: u32 = 1;
pub const FSYNC_DATASYNC: u32 = 1;
/// Marks a directory as the root of another mount, so that the guest gives it a device number of its own.
pub const ATTR_SUBMOUNT: u32 = 1;

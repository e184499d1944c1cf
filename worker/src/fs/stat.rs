//! Attributes and identity of a file, out of one `statx`.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use super::failure::Errno;
use super::host;
use crate::fuse::reply::Attr;
use crate::journal::Identity;

/// Birth times tick every few milliseconds on some file systems, and inode numbers are reused at once: below this
/// age an inode number and a birth time may belong to a successor.
const YOUNG_NANOSECONDS: i64 = 20_000_000;

#[derive(Clone, Copy, Debug)]
pub struct Stat {
    pub attr: Attr,
    pub identity: Identity,
}

impl Stat {
    pub fn of_name(dir: BorrowedFd<'_>, name: &CStr) -> Result<Self, Errno> {
        host::statx_name(dir, name).map(|raw| Self::from_statx(&raw))
    }

    pub fn of_fd(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        host::statx_fd(fd).map(|raw| Self::from_statx(&raw))
    }

    fn from_statx(raw: &libc::statx) -> Self {
        let time = |stamp: libc::statx_timestamp| (stamp.tv_sec as u64, stamp.tv_nsec);
        let birth =
            if raw.stx_mask & libc::STATX_BTIME == 0 { (0, 0) } else { (raw.stx_btime.tv_sec, raw.stx_btime.tv_nsec) };
        Self {
            attr: Attr {
                ino: raw.stx_ino,
                size: raw.stx_size,
                blocks: raw.stx_blocks,
                atime: time(raw.stx_atime),
                mtime: time(raw.stx_mtime),
                ctime: time(raw.stx_ctime),
                mode: u32::from(raw.stx_mode),
                nlink: raw.stx_nlink,
                uid: raw.stx_uid,
                gid: raw.stx_gid,
                rdev: guest_device(raw.stx_rdev_major, raw.stx_rdev_minor),
                blksize: raw.stx_blksize,
                flags: 0,
            },
            identity: Identity {
                mount: raw.stx_mnt_id,
                device: u64::from(raw.stx_dev_major) << 32 | u64::from(raw.stx_dev_minor),
                ino: raw.stx_ino,
                birth,
            },
        }
    }

    pub fn kind(&self) -> u32 {
        self.attr.mode & libc::S_IFMT
    }

    pub fn is_directory(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    /// Whether inode number and birth time are enough to know the file again.
    pub fn is_proven(&self) -> bool {
        let (born, now) = (self.identity.birth, host::now());
        if born == (0, 0) {
            return false;
        }
        let age = (now.0.saturating_sub(born.0))
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(now.1) - i64::from(born.1));
        age >= YOUNG_NANOSECONDS
    }
}

/// A device number as the protocol packs it: 20 bits of minor around 12 bits of major.
fn guest_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// The reverse of [`guest_device`].
pub fn host_device(packed: u32) -> libc::dev_t {
    libc::makedev(packed >> 8 & 0xfff, packed & 0xff | packed >> 12 & 0xfff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_way_to_the_guest_and_back() {
        for (major, minor) in [(1, 3), (253, 0x12345), (0xfff, 0xfffff)] {
            assert_eq!(host_device(guest_device(major, minor)), libc::makedev(major, minor));
        }
    }
}

//! Guest memory: the regions a monitor hands over, mapped, and the two ways of naming an address in them.
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::fs::{fstat, FileType};
use rustix::io::Errno;
use rustix::mm::{madvise, mmap, munmap, Advice, MapFlags, ProtFlags};

use crate::buffers::Buffers;

/// Most regions at a time: what the kernel's own vhost allows, and what monitors expect.
pub const MAX_REGIONS: usize = 509;
const PAGE: u64 = 4096;

/// A region as the monitor describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionDescription {
    /// Where the guest sees it.
    pub guest: u64,
    pub size: u64,
    /// Where the monitor's process sees it; ring addresses are given in this space.
    pub user: u64,
    /// Where it begins in the descriptor's file.
    pub offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionError {
    Empty,
    Overflow,
    Overlap,
    TooMany,
    Unknown,
    NotAFile,
    BeyondFile { end: u64, file: u64 },
    Stat(Errno),
    Map(Errno),
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the region is empty"),
            Self::Overflow => write!(f, "the region's addresses overflow"),
            Self::Overlap => write!(f, "the region overlaps another one"),
            Self::TooMany => write!(f, "more than {MAX_REGIONS} regions"),
            Self::Unknown => write!(f, "there is no such region"),
            Self::NotAFile => write!(f, "the region's descriptor is no file that can be mapped"),
            Self::BeyondFile { end, file } => {
                write!(
                    f,
                    "the region ends at byte {end} of a file of {file}; is guest memory shared (memfd, share=on)?"
                )
            }
            Self::Stat(errno) => write!(f, "fstat of the region's descriptor: {errno}"),
            Self::Map(errno) => write!(f, "mmap of the region: {errno}"),
        }
    }
}

impl RegionDescription {
    /// Pure part of the check: sizes and sums.
    fn check(&self) -> Result<(), RegionError> {
        if self.size == 0 {
            return Err(RegionError::Empty);
        }
        let ends = [self.guest, self.user, self.offset].map(|start| start.checked_add(self.size));
        // What is mapped begins up to a page earlier and is rounded up to a page.
        let mapped = self.size.checked_add(2 * PAGE).and_then(|bytes| isize::try_from(bytes).ok());
        if ends.contains(&None) || mapped.is_none() || i64::try_from(self.offset).is_err() {
            return Err(RegionError::Overflow);
        }
        Ok(())
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: u64, b: u64| a < b + other.size && b < a + self.size;
        meet(self.guest, other.guest) || meet(self.user, other.user)
    }
}

/// One mapped region; unmapped when the last ring that knows it lets go.
#[derive(Debug)]
struct Region {
    description: RegionDescription,
    mapping: NonNull<u8>,
    mapped: usize,
    /// Bytes between the mapping's start and the region's, since files are mapped by pages.
    lead: usize,
}

// SAFETY: the mapping is plain shared memory; all access goes through raw pointers, atomics and system calls.
unsafe impl Send for Region {}
// SAFETY: as above; the struct itself is never changed after its making.
unsafe impl Sync for Region {}

impl Region {
    fn map(description: RegionDescription, file: &OwnedFd) -> Result<Self, RegionError> {
        description.check()?;
        // syscall fstat: the size of guest memory's file
        let stat = fstat(file).map_err(RegionError::Stat)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(RegionError::NotAFile);
        }
        let (end, size) = (description.offset + description.size, stat.st_size as u64);
        if end > size {
            return Err(RegionError::BeyondFile { end, file: size });
        }
        let lead = description.offset % PAGE;
        let mapped = (description.size + lead) as usize;
        // syscall mmap: guest memory
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let address = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::SHARED | MapFlags::NORESERVE;
            mmap(ptr::null_mut(), mapped, access, flags, file, description.offset - lead)
        };
        let mapping =
            NonNull::new(address.map_err(RegionError::Map)?.cast::<u8>()).ok_or(RegionError::Map(Errno::FAULT))?;
        // Guest memory has no place in a core file. Refused only by kernels without the advice: RLIMIT_CORE is 0 too.
        // syscall madvise: no guest memory in core files
        // SAFETY: the range was just mapped, and the advice changes no content.
        let _ = unsafe { madvise(mapping.as_ptr().cast(), mapped, Advice::LinuxDontDump) };
        Ok(Self { description, mapping, mapped, lead: lead as usize })
    }

    /// Address of byte *offset* of the region and how many bytes follow up to its end; `None` beyond it.
    fn at(&self, offset: u64) -> Option<(NonNull<u8>, u64)> {
        let left = self.description.size.checked_sub(offset).filter(|left| *left > 0)?;
        // SAFETY: lead + offset < mapped, since offset < size and mapped = lead + size.
        Some((unsafe { self.mapping.add(self.lead + offset as usize) }, left))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // syscall munmap: guest memory a monitor took back
        // SAFETY: mapped by `map` with this length, and no `Memory` that lends its addresses is left.
        let _ = unsafe { munmap(self.mapping.as_ptr().cast(), self.mapped) };
    }
}

/// A ring address or request that leaves guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside {
    pub address: u64,
    pub length: u64,
}

/// All regions at one moment. Changing the map makes a new one; rings keep the old until they look up.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Ordered by guest address.
    regions: Vec<Arc<Region>>,
}

impl Memory {
    pub fn new() -> Self {
        Self::default()
    }

    /// This memory and one more region, mapped from *file*.
    pub fn with(&self, description: RegionDescription, file: &OwnedFd) -> Result<Self, RegionError> {
        description.check()?;
        if self.regions.len() >= MAX_REGIONS {
            return Err(RegionError::TooMany);
        }
        if self.regions.iter().any(|region| region.description.overlaps(&description)) {
            return Err(RegionError::Overlap);
        }
        let mut regions = self.regions.clone();
        let place = regions.partition_point(|region| region.description.guest < description.guest);
        regions.insert(place, Arc::new(Region::map(description, file)?));
        Ok(Self { regions })
    }

    /// This memory without the region that has the addresses and size of *description*.
    pub fn without(&self, description: &RegionDescription) -> Result<Self, RegionError> {
        let same = |region: &Arc<Region>| {
            let it = &region.description;
            (it.guest, it.size, it.user) == (description.guest, description.size, description.user)
        };
        let mut regions = self.regions.clone();
        let place = regions.iter().position(same).ok_or(RegionError::Unknown)?;
        regions.remove(place);
        Ok(Self { regions })
    }

    /// Appends guest range `[address, address + length)` to *buffers*, split where regions meet.
    pub fn append<'m>(&'m self, address: u64, length: u64, buffers: &mut Buffers<'m>) -> Result<(), Outside> {
        let outside = Outside { address, length };
        let (mut next, mut left) = (address, length);
        while left > 0 {
            let after = self.regions.partition_point(|region| region.description.guest <= next);
            let region = after.checked_sub(1).and_then(|at| self.regions.get(at)).ok_or(outside)?;
            let (start, room) = region.at(next - region.description.guest).ok_or(outside)?;
            let part = room.min(left);
            // SAFETY: *part* mapped bytes follow *start*, and the mapping lives as long as self, hence for 'm. Nobody
            // makes a reference to guest memory other than to atomics.
            unsafe { buffers.push(start.as_ptr(), part as usize) };
            left -= part;
            // Only the end of the last region can be the end of the address space, and then nothing is left.
            next = next.wrapping_add(part);
        }
        Ok(())
    }

    /// Host address of *length* contiguous bytes at the monitor's address *user*.
    pub fn user(&self, user: u64, length: u64) -> Result<NonNull<u8>, Outside> {
        let found = self.regions.iter().find_map(|region| {
            let (start, room) = region.at(user.checked_sub(region.description.user)?)?;
            (room >= length).then_some(start)
        });
        found.ok_or(Outside { address: user, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{ftruncate, memfd_create, MemfdFlags};

    fn file(bytes: u64) -> OwnedFd {
        let file = memfd_create("memory", MemfdFlags::CLOEXEC).expect("memfd");
        ftruncate(&file, bytes).expect("size");
        file
    }

    fn region(guest: u64, size: u64, user: u64, offset: u64) -> RegionDescription {
        RegionDescription { guest, size, user, offset }
    }

    #[test]
    fn a_range_is_split_where_regions_meet_and_refused_where_they_do_not() {
        let file = file(0x4000);
        let memory = Memory::new().with(region(0x2000, 0x1000, 0x9000, 0x1000), &file).expect("upper");
        let memory = memory.with(region(0x1000, 0x1000, 0x5000, 0), &file).expect("lower");
        let mut buffers = Buffers::new();
        memory.append(0x1ff0, 0x20, &mut buffers).expect("adjacent regions");
        assert_eq!((buffers.len(), buffers.iovecs().len()), (0x20, 2));
        for (address, length) in [(0xfff, 2), (0x2fff, 2), (0, 1), (u64::MAX, 1), (0x1000, u64::MAX)] {
            let outside = memory.append(address, length, &mut Buffers::new());
            assert_eq!(outside, Err(Outside { address, length }));
        }
    }

    #[test]
    fn a_region_that_starts_inside_a_page_is_found_at_its_own_bytes() {
        let file = file(0x3000);
        rustix::io::pwrite(&file, b"here", 0x1234).expect("write");
        let memory = Memory::new().with(region(0x100, 0x800, 0x100, 0x1234), &file).expect("region");
        let (mut buffers, mut bytes) = (Buffers::new(), [0; 4]);
        memory.append(0x100, 4, &mut buffers).expect("inside");
        buffers.read_at(0, &mut bytes);
        assert_eq!(&bytes, b"here");
    }

    #[test]
    fn regions_that_make_no_sense_are_refused() {
        let file = file(0x4000);
        let memory = Memory::new().with(region(0x1000, 0x1000, 0x8000, 0), &file).expect("first");
        let refused = |description| memory.with(description, &file).expect_err("refused");
        assert_eq!(refused(region(0x4000, 0, 0x1000, 0)), RegionError::Empty);
        assert_eq!(refused(region(u64::MAX - 10, 0x1000, 0x1000, 0)), RegionError::Overflow);
        assert_eq!(refused(region(0x4000, 0x1000, u64::MAX - 10, 0)), RegionError::Overflow);
        assert_eq!(refused(region(0x4000, 0x1000, 0x1000, u64::MAX - 10)), RegionError::Overflow);
        assert_eq!(refused(region(0, u64::MAX, 0, 0)), RegionError::Overflow);
        assert_eq!(refused(region(0x1fff, 0x1000, 0x1000, 0)), RegionError::Overlap);
        assert_eq!(refused(region(0x4000, 0x1000, 0x7001, 0)), RegionError::Overlap);
        assert_eq!(
            refused(region(0x4000, 0x4000, 0x20000, 0x1000)),
            RegionError::BeyondFile { end: 0x5000, file: 0x4000 }
        );
        assert_eq!(memory.without(&region(0x1000, 0x800, 0x8000, 0)).expect_err("other size"), RegionError::Unknown);
        assert!(memory.without(&region(0x1000, 0x1000, 0x8000, 0)).is_ok());
    }

    #[test]
    fn a_descriptor_that_is_no_file_is_refused() {
        let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None);
        let refused = Memory::new().with(region(0, 0x1000, 0, 0), &socket.expect("socket")).expect_err("a socket");
        assert_eq!(refused, RegionError::NotAFile);
    }
}

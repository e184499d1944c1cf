//! A guest's memory and the driver's side of the rings in it.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};

use super::monitor::{u32s, u64s, Events};
use super::LIMIT;

pub const RING_SIZE: u16 = 16;
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Where ring *n*'s parts begin in the guest's memory: 64 KiB per ring, then data.
const RING_BYTES: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x8000;
const USED: u64 = 0xc000;
/// First byte that belongs to no ring.
pub const DATA: u64 = 0x10_0000;

pub struct Guest {
    pub file: OwnedFd,
    /// Where guest, monitor and file see the region's first byte: all different, so that mixing them up shows.
    pub physical: u64,
    pub user: u64,
    pub offset: u64,
    pub size: u64,
    map: *mut u8,
    next: std::cell::RefCell<Vec<u16>>,
}

#[derive(Clone, Copy)]
pub struct Desc {
    pub address: u64,
    pub length: u32,
    pub flags: u16,
    pub next: u16,
}

impl Guest {
    pub fn new() -> Self {
        let (size, offset) = (0x40_0000, 0x3000);
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, size + offset).unwrap();
        let access = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        // SAFETY: a fresh mapping, never unmapped.
        let map = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), size as usize, access, rustix::mm::MapFlags::SHARED, &file, offset)
        };
        let map = map.unwrap().cast();
        Self { file, physical: 0x8000_0000, user: 0x7f00_0000_0000, offset, size, map, next: vec![0; 16].into() }
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        assert!(at + bytes.len() as u64 <= self.size);
        // SAFETY: inside the mapping; the worker reads it by design at any time.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.add(at as usize), bytes.len()) };
    }

    pub fn read(&self, at: u64, length: usize) -> Vec<u8> {
        assert!(at + length as u64 <= self.size);
        let mut bytes = vec![0; length];
        // SAFETY: inside the mapping.
        unsafe { std::ptr::copy_nonoverlapping(self.map.add(at as usize), bytes.as_mut_ptr(), length) };
        bytes
    }

    fn index(&self, at: u64) -> &std::sync::atomic::AtomicU16 {
        // SAFETY: inside the mapping and aligned; only accessed as an atomic on this side.
        unsafe { &*self.map.add(at as usize).cast() }
    }

    /// Payload of SET_VRING_ADDR.
    pub fn addresses(&self, ring: u32) -> Vec<u8> {
        let start = self.user + RING_BYTES * u64::from(ring);
        let mut payload = u32s(&[ring, 0]);
        payload.extend(u64s(&[start, start + USED, start + AVAILABLE, 0]));
        payload
    }

    pub fn describe(&self, ring: u32, index: u16, desc: Desc) {
        let at = RING_BYTES * u64::from(ring) + 16 * u64::from(index);
        self.write(at, &encode(desc));
    }

    /// Makes *head* available without more checks than a hostile driver does.
    pub fn offer(&self, ring: u32, head: u16) {
        let available = RING_BYTES * u64::from(ring) + AVAILABLE;
        let index = self.index(available + 2).load(std::sync::atomic::Ordering::Relaxed);
        self.write(available + 4 + 2 * u64::from(index % RING_SIZE), &head.to_le_bytes());
        self.index(available + 2).store(index.wrapping_add(1), std::sync::atomic::Ordering::SeqCst);
    }

    pub fn set_available(&self, ring: u32, index: u16) {
        let available = RING_BYTES * u64::from(ring) + AVAILABLE;
        self.index(available + 2).store(index, std::sync::atomic::Ordering::SeqCst);
    }

    pub fn set_available_flags(&self, ring: u32, flags: u16) {
        let available = RING_BYTES * u64::from(ring) + AVAILABLE;
        self.index(available).store(flags, std::sync::atomic::Ordering::SeqCst);
    }

    /// Asks for a signal once used index *at* is passed.
    pub fn set_used_event(&self, ring: u32, at: u16) {
        let available = RING_BYTES * u64::from(ring) + AVAILABLE;
        self.index(available + 4 + 2 * u64::from(RING_SIZE)).store(at, std::sync::atomic::Ordering::SeqCst);
    }

    /// At which available index the device wants a kick.
    pub fn available_event(&self, ring: u32) -> u16 {
        let used = RING_BYTES * u64::from(ring) + USED;
        self.index(used + 4 + 8 * u64::from(RING_SIZE)).load(std::sync::atomic::Ordering::SeqCst)
    }

    pub fn used_index(&self, ring: u32) -> u16 {
        self.index(RING_BYTES * u64::from(ring) + USED + 2).load(std::sync::atomic::Ordering::SeqCst)
    }

    pub fn set_used(&self, ring: u32, index: u16) {
        self.index(RING_BYTES * u64::from(ring) + USED + 2).store(index, std::sync::atomic::Ordering::SeqCst);
    }

    pub fn used_flags(&self, ring: u32) -> u16 {
        self.index(RING_BYTES * u64::from(ring) + USED).load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Head and length of used entry *index*.
    pub fn used_entry(&self, ring: u32, index: u16) -> (u32, u32) {
        let at = RING_BYTES * u64::from(ring) + USED + 4 + 8 * u64::from(index % RING_SIZE);
        let entry = self.read(at, 8);
        let field = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
        (field(0), field(4))
    }

    /// Starts the driver's side of *ring* from nothing.
    pub fn clear_ring(&self, ring: u32) {
        self.write(RING_BYTES * u64::from(ring), &vec![0; RING_BYTES as usize]);
        self.next.borrow_mut()[ring as usize] = 0;
    }

    /// Puts a request of *bytes* with room for *room* bytes of reply into two descriptors and makes it available.
    /// Returns the place of the reply in the guest's memory.
    pub fn ask(&self, ring: u32, bytes: &[u8], room: u32) -> u64 {
        let slot = {
            let mut next = self.next.borrow_mut();
            let slot = next[ring as usize];
            next[ring as usize] = (slot + 1) % (RING_SIZE / 2);
            slot
        };
        let place = DATA + 0x4_0000 * u64::from(ring) + 0x4000 * u64::from(slot);
        self.write(place, bytes);
        self.write(place + 0x2000, &vec![0; room as usize]);
        let head = 2 * slot;
        let (address, length) = (self.physical + place, bytes.len() as u32);
        self.describe(ring, head, Desc { address, length, flags: NEXT, next: head + 1 });
        let reply = Desc { address: address + 0x2000, length: room, flags: WRITE, next: 0 };
        self.describe(ring, head + 1, reply);
        self.offer(ring, head);
        place + 0x2000
    }

    /// Waits until *count* chains in all have come back.
    pub fn wait_used(&self, ring: u32, count: u16) {
        let start = Instant::now();
        while self.used_index(ring) != count {
            assert!(start.elapsed() < LIMIT, "used index {} instead of {count}", self.used_index(ring));
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }

    /// A request that reaches the file system and comes back as an error: returns unique and error of the reply.
    pub fn round_trip(&self, ring: u32, events: &Events, unique: u64) -> (u64, i32) {
        let before = self.used_index(ring);
        let place = self.ask(ring, &fuse_request(9999, unique), 128);
        kick(&events.kick);
        self.wait_used(ring, before.wrapping_add(1));
        self.reply(place)
    }

    /// Unique and error of the FUSE reply at *place*.
    pub fn reply(&self, place: u64) -> (u64, i32) {
        let header = self.read(place, 16);
        let error = i32::from_le_bytes(header[4..8].try_into().unwrap());
        (u64::from_le_bytes(header[8..16].try_into().unwrap()), error)
    }
}

pub fn encode(desc: Desc) -> Vec<u8> {
    let mut bytes = u64s(&[desc.address]);
    bytes.extend(u32s(&[desc.length]));
    bytes.extend(desc.flags.to_le_bytes());
    bytes.extend(desc.next.to_le_bytes());
    bytes
}

/// A FUSE request that is nothing but its header.
pub fn fuse_request(opcode: u32, unique: u64) -> Vec<u8> {
    let mut bytes = u32s(&[40, opcode]);
    bytes.extend(u64s(&[unique, 1]));
    bytes.extend([0; 16]);
    bytes
}

pub fn kick(descriptor: &OwnedFd) {
    rustix::io::write(descriptor, &1u64.to_ne_bytes()).unwrap();
}

/// Waits for an event descriptor; false if nothing came within *milliseconds*.
pub fn signalled_within(descriptor: &OwnedFd, milliseconds: i64) -> bool {
    let limit = Timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 };
    let ready = poll(&mut [PollFd::new(&descriptor.as_fd(), PollFlags::IN)], Some(&limit)).unwrap() > 0;
    let mut count = [0; 8];
    ready && rustix::io::read(descriptor, &mut count[..]).is_ok()
}

pub fn signalled(descriptor: &OwnedFd) -> bool {
    signalled_within(descriptor, LIMIT.as_secs() as i64 * 1000)
}

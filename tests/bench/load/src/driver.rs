//! The guest's side: a split ring with EVENT_IDX and indirect descriptors, one descriptor per page of data.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{fence, AtomicU16, Ordering};

use crate::monitor::{eventfd, Memory, Monitor, VringSetup};

const RING_SIZE: u16 = 256;
const PAGE: usize = 4096;
const RING_BYTES: usize = 64 * 1024;
pub const MAX_DATA: usize = 1 << 20;
const SLOT_BYTES: usize = MAX_DATA + 64 * 1024;
const ARGUMENTS: usize = PAGE;
const ANSWER: usize = 2 * PAGE;
const PAYLOAD: usize = 4 * PAGE;
const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const DESC_INDIRECT: u16 = 4;
const TIMEOUT_MS: i32 = 20_000;

pub const IN_HEADER: usize = 40;
pub const OUT_HEADER: usize = 16;

/// One FUSE request as the driver sends it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub opcode: u32,
    pub nodeid: u64,
    /// What follows the header: argument struct and names.
    pub arguments: Vec<u8>,
    /// Bytes of data sent after the arguments (WRITE); their content is whatever the slot holds.
    pub data_out: usize,
    /// Bytes of a fixed reply struct.
    pub answer: usize,
    /// Bytes of data wanted after it (READ, READDIR).
    pub data_in: usize,
}

pub struct Driver {
    memory: Memory,
    _monitor: Monitor,
    kick: OwnedFd,
    call: OwnedFd,
    _hiprio: [OwnedFd; 2],
    next_avail: u16,
    last_used: u16,
    unique: u64,
}

impl Driver {
    /// Guest memory for two rings and *depth* requests.
    pub fn memory(depth: usize) -> io::Result<Memory> {
        Memory::new((2 * RING_BYTES + depth * SLOT_BYTES).next_multiple_of(2 << 20))
    }

    /// Connects to a daemon and starts its high-priority ring and first request ring in *memory*.
    pub fn connect(socket: &Path, memory: Memory) -> io::Result<Self> {
        let monitor = Monitor::connect(socket, &memory)?;
        let hiprio = [eventfd()?, eventfd()?];
        let (kick, call) = (eventfd()?, eventfd()?);
        for (index, kick, call) in [(0u32, &hiprio[0], &hiprio[1]), (1, &kick, &call)] {
            let base = index as usize * RING_BYTES;
            let setup = VringSetup {
                index,
                size: u32::from(RING_SIZE),
                descriptors: base as u64,
                available: (base + 8 * PAGE) as u64,
                used: (base + 12 * PAGE) as u64,
                kick,
                call,
            };
            monitor.start_vring(&memory, &setup)?;
        }
        Ok(Self { memory, _monitor: monitor, kick, call, _hiprio: hiprio, next_avail: 0, last_used: 0, unique: 0 })
    }

    /// Puts *request* into *slot* and makes it available. [`Self::kick`] tells the daemon.
    pub fn submit(&mut self, slot: usize, request: &Request) {
        self.unique += 2;
        let length = IN_HEADER + request.arguments.len() + request.data_out;
        let mut header = Vec::with_capacity(IN_HEADER + request.arguments.len());
        header.extend_from_slice(&(length as u32).to_le_bytes());
        header.extend_from_slice(&request.opcode.to_le_bytes());
        header.extend_from_slice(&self.unique.to_le_bytes());
        header.extend_from_slice(&request.nodeid.to_le_bytes());
        header.extend_from_slice(&[0; 16]);
        header.extend_from_slice(&request.arguments);
        let base = 2 * RING_BYTES + slot * SLOT_BYTES;
        self.write(base + ARGUMENTS, &header);
        let mut table = vec![(base + ARGUMENTS, header.len(), 0)];
        table.extend(pages(base + PAYLOAD, request.data_out).map(|(at, bytes)| (at, bytes, 0)));
        table.push((base + ANSWER, OUT_HEADER + request.answer, DESC_WRITE));
        table.extend(pages(base + PAYLOAD, request.data_in).map(|(at, bytes)| (at, bytes, DESC_WRITE)));
        let last = table.len() - 1;
        // The indirect table of a slot lies behind its data: 16 bytes for each page and two more.
        let indirect = base + PAYLOAD + MAX_DATA;
        for (index, (address, bytes, flags)) in table.iter().enumerate() {
            let flags = flags | if index < last { DESC_NEXT } else { 0 };
            self.write_descriptor(indirect + 16 * index, *address, *bytes, flags, index as u16 + 1);
        }
        let head = slot as u16;
        self.write_descriptor(RING_BYTES + 16 * slot, indirect, 16 * table.len(), DESC_INDIRECT, 0);
        let entry = RING_BYTES + 8 * PAGE + 4 + 2 * usize::from(self.next_avail % RING_SIZE);
        self.write(entry, &head.to_le_bytes());
        self.next_avail = self.next_avail.wrapping_add(1);
        self.index(RING_BYTES + 8 * PAGE + 2).store(self.next_avail, Ordering::Release);
    }

    /// Tells the daemon about new requests, unless it said (avail_event) that it will look by itself.
    pub fn kick(&mut self, added: u16) {
        fence(Ordering::SeqCst);
        let event = self.index(RING_BYTES + 12 * PAGE + 4 + 8 * usize::from(RING_SIZE)).load(Ordering::Relaxed);
        if self.next_avail.wrapping_sub(event).wrapping_sub(1) < added {
            // SAFETY: eight bytes of a local value to our own eventfd.
            unsafe { libc::write(self.kick.as_raw_fd(), KICK.as_ptr().cast(), 8) };
        }
    }

    /// Waits for at least one answer; calls *done*(slot) for each that is there.
    pub fn wait(&mut self, mut done: impl FnMut(usize)) -> io::Result<usize> {
        loop {
            let taken = self.collect(&mut done);
            if taken > 0 {
                return Ok(taken);
            }
            self.index(RING_BYTES + 8 * PAGE + 4 + 2 * usize::from(RING_SIZE)).store(self.last_used, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.used_index() != self.last_used {
                continue;
            }
            let mut poll = libc::pollfd { fd: self.call.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd, live; then eight bytes into a local value.
            unsafe {
                if libc::poll(&raw mut poll, 1, TIMEOUT_MS) == 0 {
                    return Err(io::Error::from(io::ErrorKind::TimedOut));
                }
                let mut count = 0u64;
                libc::read(self.call.as_raw_fd(), (&raw mut count).cast(), 8);
            }
        }
    }

    /// Sends one request and returns the errno (0: none) and the bytes after the reply header.
    pub fn ask(&mut self, request: &Request) -> io::Result<(i32, Vec<u8>)> {
        self.submit(0, request);
        self.kick(1);
        self.wait(|_| ())?;
        let (error, length) = self.answer_header(0);
        let mut bytes = self.read(2 * RING_BYTES + ANSWER + OUT_HEADER, request.answer);
        bytes.truncate(length.saturating_sub(OUT_HEADER));
        Ok((error, bytes))
    }

    /// Errno and length of the last answer in *slot*.
    pub fn answer_header(&self, slot: usize) -> (i32, usize) {
        let bytes = self.read(2 * RING_BYTES + slot * SLOT_BYTES + ANSWER, 8);
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        (-(word(4) as i32), word(0) as usize)
    }

    /// Offset cookie of the last entry in *length* bytes of READDIRPLUS data in slot 0.
    pub fn last_offset(&self, length: usize) -> u64 {
        const ENTRY: usize = 128;
        let data = self.read(2 * RING_BYTES + PAYLOAD, length);
        let (mut at, mut offset) = (0, 0);
        while at + ENTRY + 24 <= data.len() {
            let word = |from: usize| {
                data.get(from..from + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_le_bytes)
            };
            offset = word(at + ENTRY + 8);
            let name = word(at + ENTRY + 16) as u32 as usize;
            at += (ENTRY + 24 + name).next_multiple_of(8);
        }
        offset
    }

    fn collect(&mut self, done: &mut impl FnMut(usize)) -> usize {
        let mut taken = 0;
        while self.last_used != self.used_index() {
            let entry = RING_BYTES + 12 * PAGE + 4 + 8 * usize::from(self.last_used % RING_SIZE);
            let head = self.read(entry, 2);
            self.last_used = self.last_used.wrapping_add(1);
            done(usize::from(u16::from_le_bytes([head[0], head[1]])));
            taken += 1;
        }
        taken
    }

    fn used_index(&self) -> u16 {
        self.index(RING_BYTES + 12 * PAGE + 2).load(Ordering::Acquire)
    }

    fn index(&self, at: usize) -> &AtomicU16 {
        assert!(at + 2 <= self.memory.bytes && at % 2 == 0);
        // SAFETY: inside the mapping (asserted), aligned, and only used atomically.
        unsafe { AtomicU16::from_ptr(self.memory.base.add(at).cast()) }
    }

    fn write_descriptor(&self, at: usize, address: usize, bytes: usize, flags: u16, next: u16) {
        let mut record = [0; 16];
        record[..8].copy_from_slice(&(address as u64).to_le_bytes());
        record[8..12].copy_from_slice(&(bytes as u32).to_le_bytes());
        record[12..14].copy_from_slice(&flags.to_le_bytes());
        record[14..].copy_from_slice(&next.to_le_bytes());
        self.write(at, &record);
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.memory.bytes);
        // SAFETY: inside the mapping (asserted).
        unsafe { self.memory.base.add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn read(&self, at: usize, length: usize) -> Vec<u8> {
        assert!(at + length <= self.memory.bytes);
        let mut bytes = vec![0; length];
        // SAFETY: inside the mapping (asserted).
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.memory.base.add(at), length) };
        bytes
    }
}

const KICK: [u64; 1] = [1];

fn pages(start: usize, length: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..length).step_by(PAGE).map(move |offset| (start + offset, PAGE.min(length - offset)))
}

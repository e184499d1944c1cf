//! Descriptor chains: from a head to the readable and the writable half of a request.
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt;

use crate::buffers::Buffers;
use crate::memory::{Memory, Outside};

/// Most descriptors in one request, indirect ones included: what one `preadv2` takes. INIT grants requests of 256
/// pages, which need a few more than 256.
pub const MAX_DESCRIPTORS: usize = 1024;

const BYTES: usize = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub address: u64,
    pub length: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    /// From its two halves: the address; length, flags and next (virtio 1.3, section 2.7.5).
    pub fn decode(address: [u8; 8], rest: [u8; 8]) -> Self {
        let [l0, l1, l2, l3, f0, f1, n0, n1] = rest;
        Self {
            address: u64::from_le_bytes(address),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainError {
    Next(u16),
    Loop,
    TooLong,
    Outside(Outside),
    ReadableAfterWritable,
    IndirectNotNegotiated,
    IndirectInIndirect,
    IndirectWithNext,
    IndirectLength(u32),
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Next(next) => write!(f, "a descriptor goes on at {next}, beyond its table"),
            Self::Loop => write!(f, "a descriptor chain runs in a circle"),
            Self::TooLong => write!(f, "a descriptor chain of more than {MAX_DESCRIPTORS}"),
            Self::Outside(Outside { address, length }) => {
                write!(f, "a descriptor ({length} bytes at {address:#x}) lies outside guest memory")
            }
            Self::ReadableAfterWritable => write!(f, "a readable descriptor follows a writable one"),
            Self::IndirectNotNegotiated => write!(f, "an indirect descriptor, which was not negotiated"),
            Self::IndirectInIndirect => write!(f, "an indirect descriptor in an indirect table"),
            Self::IndirectWithNext => write!(f, "an indirect descriptor with a successor"),
            Self::IndirectLength(bytes) => write!(f, "an indirect table of {bytes} bytes"),
        }
    }
}

/// What a chain is walked in.
pub struct Ring<'m> {
    pub size: u16,
    pub indirect: bool,
    pub memory: &'m Memory,
}

impl<'m> Ring<'m> {
    /// Collects the chain that begins at *head*: readable parts in *request*, writable ones in *reply*.
    ///
    /// *read* copies one descriptor of the ring's own table, *table* is scratch for indirect ones. Empty descriptors
    /// are allowed anywhere: Linux sends FUSE arguments of length 0.
    pub fn walk(
        &self,
        head: u16,
        read: impl Fn(u16) -> Descriptor,
        table: &mut Vec<Descriptor>,
        request: &mut Buffers<'m>,
        reply: &mut Buffers<'m>,
    ) -> Result<(), ChainError> {
        let mut halves = Halves { memory: self.memory, request, reply, writable_seen: false, left: MAX_DESCRIPTORS };
        let (mut at, mut steps) = (head, 0);
        loop {
            let descriptor = read(at);
            if descriptor.flags & INDIRECT != 0 {
                if descriptor.flags & NEXT != 0 {
                    return Err(ChainError::IndirectWithNext);
                }
                if !self.indirect {
                    return Err(ChainError::IndirectNotNegotiated);
                }
                self.copy_table(&descriptor, table)?;
                return walk_table(table, &mut halves);
            }
            halves.add(&descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            if descriptor.next >= self.size {
                return Err(ChainError::Next(descriptor.next));
            }
            steps += 1;
            if steps >= self.size {
                return Err(ChainError::Loop);
            }
            at = descriptor.next;
        }
    }

    /// Copies an indirect table out of guest memory: what is checked is what is used.
    fn copy_table(&self, descriptor: &Descriptor, table: &mut Vec<Descriptor>) -> Result<(), ChainError> {
        let length = descriptor.length as usize;
        if length == 0 || length % BYTES != 0 || length > BYTES * usize::from(u16::MAX) {
            return Err(ChainError::IndirectLength(descriptor.length));
        }
        if length > BYTES * MAX_DESCRIPTORS {
            return Err(ChainError::TooLong);
        }
        let mut source = Buffers::new();
        self.memory.append(descriptor.address, length as u64, &mut source).map_err(ChainError::Outside)?;
        table.clear();
        for at in (0..length).step_by(BYTES) {
            let (mut address, mut rest) = ([0; 8], [0; 8]);
            source.read_at(at, &mut address);
            source.read_at(at + 8, &mut rest);
            table.push(Descriptor::decode(address, rest));
        }
        Ok(())
    }
}

fn walk_table(table: &[Descriptor], halves: &mut Halves<'_, '_>) -> Result<(), ChainError> {
    let mut at = 0;
    for _ in 0..table.len() {
        let descriptor = table.get(usize::from(at)).ok_or(ChainError::Next(at))?;
        if descriptor.flags & INDIRECT != 0 {
            return Err(ChainError::IndirectInIndirect);
        }
        halves.add(descriptor)?;
        if descriptor.flags & NEXT == 0 {
            return Ok(());
        }
        at = descriptor.next;
    }
    // As many steps as entries and still a successor: either back into the table or beyond it.
    Err(if usize::from(at) < table.len() { ChainError::Loop } else { ChainError::Next(at) })
}

/// The request being put together.
struct Halves<'a, 'm> {
    memory: &'m Memory,
    request: &'a mut Buffers<'m>,
    reply: &'a mut Buffers<'m>,
    writable_seen: bool,
    left: usize,
}

impl Halves<'_, '_> {
    fn add(&mut self, descriptor: &Descriptor) -> Result<(), ChainError> {
        self.left = self.left.checked_sub(1).ok_or(ChainError::TooLong)?;
        let writable = descriptor.flags & WRITE != 0;
        if !writable && self.writable_seen {
            return Err(ChainError::ReadableAfterWritable);
        }
        self.writable_seen = writable;
        let half = if writable { &mut *self.reply } else { &mut *self.request };
        self.memory.append(descriptor.address, u64::from(descriptor.length), half).map_err(ChainError::Outside)
    }
}

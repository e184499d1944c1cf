//! A split virtqueue in guest memory, seen from the device (virtio 1.3, section 2.7).
//!
//! Everything read from the ring is hostile: it is copied out once, and each promise a driver makes is checked where
//! it is relied on. A broken promise stops the ring (I5).
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{fence, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::chain::{self, ChainError, Descriptor};
use crate::buffers::Buffers;
use crate::memory::{Memory, Outside};

/// Largest ring virtio allows.
pub const MAX_SIZE: u16 = 1 << 15;

const DESCRIPTOR_BYTES: u64 = 16;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// Where a ring lies, in the monitor's addresses, and how it is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    /// VIRTIO_RING_F_EVENT_IDX was negotiated.
    pub event_idx: bool,
    /// VIRTIO_RING_F_INDIRECT_DESC was negotiated.
    pub indirect: bool,
}

/// How far a ring has been worked through. Survives a change of memory or addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub next_available: u16,
    pub next_used: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    Size(u16),
    Part { name: &'static str, outside: Outside },
    Alignment(&'static str),
    AvailableJump { from: u16, to: u16 },
    Head(u16),
    Chain(ChainError),
    Overfull(u16),
    Kick,
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(f, "a ring of {size} entries; a power of two up to {MAX_SIZE} is possible"),
            Self::Part { name, outside } => {
                write!(f, "the {name} ({} bytes at {:#x}) lies outside guest memory", outside.length, outside.address)
            }
            Self::Alignment(name) => write!(f, "the {name} is not aligned"),
            Self::AvailableJump { from, to } => write!(f, "the available index jumped from {from} to {to}"),
            Self::Head(head) => write!(f, "descriptor {head} is beyond the ring"),
            Self::Chain(error) => error.fmt(f),
            Self::Overfull(size) => write!(f, "more than {size} requests wait, and the ring has no more entries"),
            Self::Kick => write!(f, "the kick descriptor cannot be waited for"),
        }
    }
}

impl std::error::Error for RingError {}

/// A ring at work. `'m` is the life of the memory it lies in.
pub struct Ring<'m> {
    memory: &'m Memory,
    layout: Layout,
    descriptors: Part<'m>,
    available: Part<'m>,
    used: Part<'m>,
    cursor: &'m mut Cursor,
    /// Used index the driver has seen and been signalled for.
    published: u16,
    table: Vec<Descriptor>,
}

impl<'m> Ring<'m> {
    /// Finds the ring's parts. *cursor* says where to go on.
    pub fn open(memory: &'m Memory, layout: &Layout, cursor: &'m mut Cursor) -> Result<Self, RingError> {
        let size = u64::from(layout.size);
        if !layout.size.is_power_of_two() || layout.size > MAX_SIZE {
            return Err(RingError::Size(layout.size));
        }
        let event = if layout.event_idx { 2 } else { 0 };
        let part = |name, address, length, alignment| Part::find(memory, name, address, length, alignment);
        let published = cursor.next_used;
        Ok(Self {
            memory,
            layout: *layout,
            descriptors: part("descriptor table", layout.descriptors, DESCRIPTOR_BYTES * size, 16)?,
            available: part("available ring", layout.available, 4 + 2 * size + event, 2)?,
            used: part("used ring", layout.used, 4 + 8 * size + event, 4)?,
            cursor,
            published,
            table: Vec::new(),
        })
    }

    /// Takes the used index from the ring: where a device that is started goes on publishing.
    pub fn adopt_used(&mut self) {
        self.cursor.next_used = self.used.u16(2).load(Ordering::Acquire);
        self.published = self.cursor.next_used;
    }

    /// Takes the next available chain: fills *request* with what the driver wrote and *reply* with its place for the
    /// answer. Returns the chain's head, or `None` when the ring is empty.
    pub fn take(&mut self, request: &mut Buffers<'m>, reply: &mut Buffers<'m>) -> Result<Option<u16>, RingError> {
        let Some(head) = self.next_head()? else { return Ok(None) };
        self.walk(head, request, reply)?;
        self.cursor.next_available = self.cursor.next_available.wrapping_add(1);
        Ok(Some(head))
    }

    /// Fills *request* and *reply* from the chain at *head*, which was taken before: the driver may have changed it.
    pub fn walk(&mut self, head: u16, request: &mut Buffers<'m>, reply: &mut Buffers<'m>) -> Result<(), RingError> {
        request.clear();
        reply.clear();
        let ring = chain::Ring { size: self.layout.size, indirect: self.layout.indirect, memory: self.memory };
        let descriptors = &self.descriptors;
        ring.walk(head, |index| descriptors.descriptor(index), &mut self.table, request, reply)
            .map_err(RingError::Chain)
    }

    fn next_head(&self) -> Result<Option<u16>, RingError> {
        let (from, to) = (self.cursor.next_available, self.available.u16(2).load(Ordering::Acquire));
        match to.wrapping_sub(from) {
            0 => return Ok(None),
            ahead if ahead > self.layout.size => return Err(RingError::AvailableJump { from, to }),
            _ => {}
        }
        let slot = from & (self.layout.size - 1);
        let head = self.available.u16(4 + 2 * usize::from(slot)).load(Ordering::Relaxed);
        if head >= self.layout.size {
            return Err(RingError::Head(head));
        }
        Ok(Some(head))
    }

    /// Most chains that a driver can have waiting here: it has no more heads.
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// Chains that the driver has made available and not had back: those that wait here included. A driver that lies
    /// about its index gets no more than the ring's size.
    pub fn depth(&self) -> u16 {
        let available = self.available.u16(2).load(Ordering::Relaxed);
        available.wrapping_sub(self.cursor.next_used).min(self.layout.size)
    }

    /// Chains that were given back and that the driver has not been shown.
    pub fn unpublished(&self) -> u16 {
        self.cursor.next_used.wrapping_sub(self.published)
    }

    /// Gives chain *head* back with *written* bytes of reply. The driver sees it after [`Ring::publish`].
    pub fn complete(&mut self, head: u16, written: u32) {
        let slot = 4 + 8 * usize::from(self.cursor.next_used & (self.layout.size - 1));
        self.used.u32(slot).store(u32::from(head).to_le(), Ordering::Relaxed);
        self.used.u32(slot + 4).store(written.to_le(), Ordering::Relaxed);
        self.cursor.next_used = self.cursor.next_used.wrapping_add(1);
    }

    /// Shows the driver everything completed since the last call; true if it wants a signal for that.
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.cursor.next_used);
        if old == new {
            return false;
        }
        self.used.u16(2).store(new, Ordering::Release);
        self.published = new;
        // The index must be visible before the driver's wish is read: it does the reverse before it sleeps.
        fence(Ordering::SeqCst);
        if self.layout.event_idx {
            let event = self.available.u16(4 + 2 * usize::from(self.layout.size)).load(Ordering::Relaxed);
            crossed(event, old, new)
        } else {
            self.available.u16(0).load(Ordering::Relaxed) & NO_INTERRUPT == 0
        }
    }

    /// Tells the driver that kicks are not needed while chains are being taken anyway.
    pub fn refuse_kicks(&self) {
        if !self.layout.event_idx {
            // With EVENT_IDX the old event index, now passed, does the same.
            self.used.u16(0).store(NO_NOTIFY, Ordering::Relaxed);
        }
    }

    /// Asks for a kick at the next chain; true if one has come meanwhile and parking would miss it.
    pub fn ask_for_kick(&self) -> bool {
        if self.layout.event_idx {
            let event = self.used.u16(4 + 8 * usize::from(self.layout.size));
            event.store(self.cursor.next_available, Ordering::Relaxed);
        } else {
            self.used.u16(0).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.available.u16(2).load(Ordering::Acquire) != self.cursor.next_available
    }
}

/// Did the index pass *event* on its way from *old* to *new*? (virtio 1.3, section 2.7.7.2)
fn crossed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// One of a ring's three parts: host memory shared with the driver, accessed by atomics only.
struct Part<'m> {
    start: NonNull<u8>,
    bytes: usize,
    memory: std::marker::PhantomData<&'m Memory>,
}

impl Part<'_> {
    fn find(
        memory: &Memory,
        name: &'static str,
        address: u64,
        length: u64,
        alignment: usize,
    ) -> Result<Self, RingError> {
        let start = memory.user(address, length).map_err(|outside| RingError::Part { name, outside })?;
        if start.as_ptr() as usize % alignment != 0 {
            return Err(RingError::Alignment(name));
        }
        Ok(Self { start, bytes: length as usize, memory: std::marker::PhantomData })
    }

    /// Address of a field of *width* bytes.
    ///
    /// Callers reduce every index by the ring's size first. The clamp makes a mistake there a wrong field instead of a
    /// wrong address.
    fn field<T>(&self, offset: usize) -> NonNull<T> {
        let width = size_of::<T>();
        let offset = offset.min(self.bytes - width) & !(width - 1);
        // SAFETY: offset + width <= bytes, all of them mapped for 'm.
        unsafe { self.start.add(offset).cast() }
    }

    fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: mapped for 'm and aligned: the part is to 2 at least, the offset to the width. The driver may write
        // at any time, which atomics bear. x86-64 and the ring are both little-endian.
        unsafe { self.field::<AtomicU16>(offset).as_ref() }
    }

    /// Used ring only: aligned to 4.
    fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as in u16; only called on the used ring, which is aligned to 4.
        unsafe { self.field::<AtomicU32>(offset).as_ref() }
    }

    /// Descriptor table only: aligned to 16.
    fn descriptor(&self, index: u16) -> Descriptor {
        let offset = DESCRIPTOR_BYTES as usize * usize::from(index);
        // SAFETY: as in u16; only called on the descriptor table, which is aligned to 16.
        let half = |offset| unsafe { self.field::<AtomicU64>(offset).as_ref() }.load(Ordering::Relaxed).to_le_bytes();
        Descriptor::decode(half(offset), half(offset + 8))
    }
}

#[cfg(target_endian = "big")]
compile_error!("rings are little-endian, and their indices are used without conversion");

#[cfg(test)]
mod tests {
    use super::crossed;

    #[test]
    fn an_event_is_crossed_when_it_lies_in_the_half_open_step() {
        assert!(crossed(5, 5, 6));
        assert!(!crossed(6, 5, 6));
        assert!(!crossed(4, 5, 6));
        assert!(crossed(65535, 65534, 2));
        assert!(!crossed(2, 65534, 2));
    }
}

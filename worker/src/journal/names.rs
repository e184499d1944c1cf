//! Names of nodes, in blocks of one to sixteen 32-byte units.
//!
//! A block: owner's node id; name length, handle length and checksum; the name's bytes; the handle's bytes.
//! A node never changes its block in place: it gets a new one, the record is switched over, the old one is freed.

use super::memory::Arena;
use super::table::mix;

const UNIT_WORDS: usize = 4;
const HEAD_BYTES: usize = 16;
const CLASSES: usize = 5;
/// Space for a name of 255 bytes and the largest handle (`MAX_HANDLE_SZ` and its type).
const MAX_CONTENT: usize = ((UNIT_WORDS * 8) << (CLASSES - 1)) - HEAD_BYTES;

/// Where a name lies: unit number and size class. None for the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Unit number plus one.
    location: u32,
    class: u8,
}

impl Place {
    pub const NONE: Self = Self { location: 0, class: 0 };

    pub fn is_none(self) -> bool {
        self.location == 0
    }

    pub(super) fn parts(self) -> (u32, u8) {
        (self.location, self.class)
    }

    pub(super) fn from_parts(location: u32, class: u8) -> Self {
        Self { location, class }
    }
}

/// A name and a file handle, copied out of the arena.
#[derive(Clone, Debug)]
pub struct StoredName {
    content: [u8; MAX_CONTENT],
    name: usize,
    handle: usize,
}

impl StoredName {
    pub fn name(&self) -> &[u8] {
        self.content.get(..self.name).unwrap_or_default()
    }

    /// Empty when the node is known without one.
    pub fn handle(&self) -> &[u8] {
        self.content.get(self.name..self.name + self.handle).unwrap_or_default()
    }
}

/// The allocator; its free lists are beside the arena.
#[derive(Debug)]
pub struct NameHeap {
    base: usize,
    units: u32,
    free: [Vec<u32>; CLASSES],
}

impl NameHeap {
    pub fn over(arena: &Arena) -> Self {
        let layout = arena.layout();
        Self { base: layout.name_base, units: layout.name_units, free: Default::default() }
    }

    /// Forgets every block.
    pub fn clear(&mut self, arena: &Arena) {
        self.free.iter_mut().for_each(Vec::clear);
        arena.store(Arena::NAME_MARK, 0);
    }

    /// Stores a name (and handle) for *owner*. `None` when the heap is full or the two are too long.
    pub fn store(&mut self, arena: &Arena, owner: u64, name: &[u8], handle: &[u8]) -> Option<Place> {
        let length = name.len() + handle.len();
        if length > MAX_CONTENT {
            return None;
        }
        let class = (0..CLASSES).find(|class| HEAD_BYTES + length <= (UNIT_WORDS * 8) << class)?;
        let place = self.allocate(arena, class)?;
        let start = self.start(place)?;
        let lengths = name.len() as u64 | (handle.len() as u64) << 16;
        let mut sum = mix(mix(0, owner), lengths);
        let mut content = name.iter().chain(handle).copied();
        for offset in 0..length.div_ceil(8) {
            let mut bytes = [0; 8];
            for (target, source) in bytes.iter_mut().zip(&mut content) {
                *target = source;
            }
            let word = u64::from_le_bytes(bytes);
            arena.store(start + 2 + offset, word);
            sum = mix(sum, word);
        }
        arena.store(start, owner);
        arena.store(start + 1, lengths | (sum >> 32) << 32);
        Some(place)
    }

    /// Copies a block out; `None` when it is not *owner*'s or was not completely written.
    pub fn read(&self, arena: &Arena, place: Place, owner: u64) -> Option<StoredName> {
        let start = self.start(place)?;
        let head = arena.load(start + 1);
        let (name, handle) = ((head & 0xffff) as usize, (head >> 16 & 0xffff) as usize);
        if arena.load(start) != owner || name + handle > MAX_CONTENT {
            return None;
        }
        let mut stored = StoredName { content: [0; MAX_CONTENT], name, handle };
        let mut sum = mix(mix(0, owner), head & 0xffff_ffff);
        for (offset, target) in stored.content.chunks_mut(8).take((name + handle).div_ceil(8)).enumerate() {
            let word = arena.load(start + 2 + offset);
            sum = mix(sum, word);
            for (target, source) in target.iter_mut().zip(word.to_le_bytes()) {
                *target = source;
            }
        }
        (sum >> 32 == head >> 32).then_some(stored)
    }

    pub fn free(&mut self, place: Place) {
        if let (false, Some(list)) = (place.is_none(), self.free.get_mut(usize::from(place.class))) {
            list.push(place.location);
        }
    }

    fn allocate(&mut self, arena: &Arena, class: usize) -> Option<Place> {
        if let Some(location) = self.free.get_mut(class)?.pop() {
            return Some(Place { location, class: class as u8 });
        }
        let (mark, size) = (arena.load(Arena::NAME_MARK) as u32, 1 << class);
        if mark.checked_add(size)? <= self.units {
            arena.store(Arena::NAME_MARK, u64::from(mark + size));
            return Some(Place { location: mark + 1, class: class as u8 });
        }
        let (larger, list) = self.free.iter_mut().enumerate().skip(class + 1).find(|(_, list)| !list.is_empty())?;
        Some(Place { location: list.pop()?, class: larger as u8 })
    }

    fn start(&self, place: Place) -> Option<usize> {
        let unit = place.location.checked_sub(1)?;
        let end = unit.checked_add(1 << u32::from(place.class).min(CLASSES as u32))?;
        (end <= self.units).then(|| self.base + unit as usize * UNIT_WORDS)
    }
}

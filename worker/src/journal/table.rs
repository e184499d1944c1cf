//! A table of fixed-size records with version, checksum and a commit word.

use std::sync::atomic::{fence, Ordering};

use super::memory::Arena;

/// Turns a version into its commit word, so that a zeroed record is not a committed one.
const COMMIT: u64 = 0x434f_4d4d_4954_5f31;

/// A table whose records hold *N* payload words:
/// id, version, payload, checksum over all before, commit.
#[derive(Clone, Copy, Debug)]
pub struct Table<const N: usize> {
    pub(super) base: usize,
    pub(super) capacity: u32,
    /// Header word of the high-water mark: the first index that was never used.
    pub(super) mark: usize,
}

/// How a record reads after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<const N: usize> {
    Free,
    /// Written completely; the id (sequence above, index below 32 bits) and the payload.
    Intact(u64, [u64; N]),
    Torn,
}

impl<const N: usize> Table<N> {
    pub const RECORD_WORDS: usize = N + 4;

    /// Number of indices, the unused 0 included.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The first index that was never used.
    pub fn high_water(&self, arena: &Arena) -> u32 {
        (arena.load(self.mark) as u32).min(self.capacity)
    }

    pub fn set_high_water(&self, arena: &Arena, index: u32) {
        arena.store(self.mark, u64::from(index));
    }

    /// Writes a whole record. The first payload word must not be 0: that marks a free record.
    pub fn write(&self, arena: &Arena, id: u64, payload: &[u64; N]) {
        let Some(place) = self.place(id as u32) else { return };
        let version = arena.load(place + 1).wrapping_add(1);
        let commit = place + Self::RECORD_WORDS - 1;
        arena.store(commit, 0);
        fence(Ordering::Release);
        arena.store(place, id);
        arena.store(place + 1, version);
        let mut sum = mix(mix(0, id), version);
        for (offset, &word) in payload.iter().enumerate() {
            arena.store(place + 2 + offset, word);
            sum = mix(sum, word);
        }
        arena.store(commit - 1, sum);
        fence(Ordering::Release);
        arena.store(commit, version ^ COMMIT);
    }

    /// Marks a record free and keeps its id, so that the next user of the index takes a higher sequence.
    pub fn free(&self, arena: &Arena, id: u64) {
        self.write(arena, id, &[0; N]);
    }

    /// The record at *index* as this process wrote it; `None` when free.
    pub fn read(&self, arena: &Arena, index: u32) -> Option<(u64, [u64; N])> {
        let place = self.place(index)?;
        let mut payload = [0; N];
        for (offset, word) in payload.iter_mut().enumerate() {
            *word = arena.load(place + 2 + offset);
        }
        (payload.first() != Some(&0)).then(|| (arena.load(place), payload))
    }

    /// The id that was last stored at *index*, free or not.
    pub fn last_id(&self, arena: &Arena, index: u32) -> u64 {
        self.place(index).map_or(0, |place| arena.load(place))
    }

    /// Judges a record that another process may have died writing.
    pub fn check(&self, arena: &Arena, index: u32) -> Verdict<N> {
        let Some(place) = self.place(index) else { return Verdict::Torn };
        let (id, version) = (arena.load(place), arena.load(place + 1));
        let mut payload = [0; N];
        let mut sum = mix(mix(0, id), version);
        for (offset, word) in payload.iter_mut().enumerate() {
            *word = arena.load(place + 2 + offset);
            sum = mix(sum, *word);
        }
        let commit = place + Self::RECORD_WORDS - 1;
        if arena.load(commit) != version ^ COMMIT || arena.load(commit - 1) != sum || id as u32 != index {
            return Verdict::Torn;
        }
        if payload.first() == Some(&0) {
            Verdict::Free
        } else {
            Verdict::Intact(id, payload)
        }
    }

    fn place(&self, index: u32) -> Option<usize> {
        (index > 0 && index < self.capacity).then(|| self.base + index as usize * Self::RECORD_WORDS)
    }
}

/// One step of the checksum; guards against torn writes, not against an attacker (who holds the mapping anyway).
pub(super) fn mix(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

//! When did the oldest request in flight start? The supervisor tells a stuck worker by it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::stats::{Counter, Stats};

/// One slot per ring, each written by that ring's thread alone; the statistics page shows the oldest.
pub struct InFlight {
    starts: Box<[AtomicU64]>,
    stats: &'static Stats,
}

impl InFlight {
    pub fn new(rings: usize, stats: &'static Stats) -> Self {
        Self { starts: (0..rings).map(|_| AtomicU64::new(0)).collect(), stats }
    }

    /// Ring *ring* begins a request; returns the time, in nanoseconds of CLOCK_MONOTONIC.
    pub fn begin(&self, ring: usize) -> u64 {
        let now = monotonic();
        self.set(ring, now);
        now
    }

    /// Ring *ring* has finished its request.
    pub fn end(&self, ring: usize) {
        self.set(ring, 0);
    }

    fn set(&self, ring: usize, start: u64) {
        if let Some(slot) = self.starts.get(ring) {
            slot.store(start, Ordering::SeqCst);
        }
        // Two threads may compute at the same time: whoever writes last must have seen both slots, so it looks again.
        let mut oldest = self.oldest();
        loop {
            self.stats.set(Counter::OldestStart, oldest);
            let again = self.oldest();
            if again == oldest {
                return;
            }
            oldest = again;
        }
    }

    fn oldest(&self) -> u64 {
        // Orders the page's store above against these loads.
        std::sync::atomic::fence(Ordering::SeqCst);
        let busy = self.starts.iter().map(|slot| slot.load(Ordering::SeqCst)).filter(|start| *start != 0);
        busy.min().unwrap_or(0)
    }
}

/// CLOCK_MONOTONIC in nanoseconds: from the vDSO, no system call.
pub fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the result; the clock always exists, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_the_oldest_start_and_zero_when_idle() {
        let stats = Box::leak(Box::new(Stats::private()));
        let rings = InFlight::new(2, stats);
        let first = rings.begin(0);
        rings.begin(1);
        assert_eq!(stats.get(Counter::OldestStart), first);
        rings.end(0);
        assert!(stats.get(Counter::OldestStart) >= first);
        rings.end(1);
        assert_eq!(stats.get(Counter::OldestStart), 0);
    }
}

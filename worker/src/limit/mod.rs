//! Limits on requests: token buckets that all queues of the share draw from (docs/limits.md).
//!
//! A queue thread asks before it serves a request, and says afterwards what was moved. A request that may not run yet
//! waits with its thread (`queue::parked`), which goes on serving others.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

mod bucket;
mod cost;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use bucket::Bucket;
pub use cost::{Class, Cost};

use crate::config::{Limits, MAX_QUEUES};
use crate::fs::MAX_WRITE;
use crate::log;
use crate::stats::{Counter, Stats};

/// Under a limit on bytes one request moves at most a quarter of a second's worth, but never less than this.
const LEAST_CHUNK: u64 = 64 * 1024;
const PAGE: u64 = 4096;
/// No request moves more.
const MOST: u64 = MAX_WRITE as u64;
const MILLISECOND: u64 = 1_000_000;
/// For so long after a debt is paid, only whoever has waited longest is let in: a thread that is awake already would
/// always be there before one that has to be woken.
const PRECEDENCE: u64 = MILLISECOND;
/// Whoever has to wait looks again after so long while others run, since they may need less than they asked for.
const SECOND_LOOK: u64 = 10 * MILLISECOND;
/// Rings there can be: for high priority, and for requests.
const RINGS: usize = MAX_QUEUES as usize + 1;
/// Between two lines about long waits.
const QUIET: u64 = 60_000 * MILLISECOND;

/// The limits in force, shared by all threads.
pub struct Limiter {
    /// Without a limit a request costs this look.
    set: AtomicBool,
    lines: Mutex<Lines>,
    /// When the last line about a long wait was written, and how many waits it did not speak of.
    warned: AtomicU64,
    untold: AtomicU64,
    stats: &'static Stats,
}

#[derive(Debug)]
struct Lines {
    limits: Option<Limits>,
    by_class: [Line; 3],
}

/// The buckets of one class, and who waits for them.
#[derive(Debug, Default)]
struct Line {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
    /// Since when the first request of each ring waits.
    waiting: [Option<u64>; RINGS],
    /// Requests that run, and may give back some of their charge.
    running: u32,
}

/// A request that asks to be let in.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    pub ring: usize,
    pub cost: Cost,
    /// When it was taken from its ring.
    pub since: u64,
}

impl Limiter {
    pub fn new(limits: Option<Limits>, now: u64, stats: &'static Stats) -> Self {
        let mut lines = Lines { limits: None, by_class: Default::default() };
        lines.change(limits, now);
        let set = AtomicBool::new(lines.limits.is_some());
        let (warned, untold) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { set, lines: Mutex::new(lines), warned, untold, stats }
    }

    /// Whether there is any limit.
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Puts *limits* in place of those in force; false when they are the same. Whoever waits has to ask anew.
    pub fn replace(&self, limits: Option<Limits>, now: u64) -> bool {
        let mut lines = self.lines();
        if lines.limits == limits {
            return false;
        }
        lines.change(limits, now);
        self.set.store(lines.limits.is_some(), Ordering::Release);
        true
    }

    /// Lets a request in and charges what it asks for, or says when to ask again.
    pub fn ask(&self, asking: Asking, now: u64) -> Result<(), u64> {
        let mut lines = self.lines();
        let line = lines.of(asking.cost.class);
        let free_at = line.buckets().map(|bucket| bucket.free_at(now)).max();
        let is_first = line.waiting.iter().flatten().all(|since| *since >= asking.since);
        let may_at = free_at.map_or(now, |free_at| free_at.saturating_add(if is_first { 0 } else { PRECEDENCE }));
        let waits = may_at > now;
        if let Some(waiting) = line.waiting.get_mut(asking.ring) {
            *waiting = waits.then_some(asking.since);
        }
        if waits {
            return Err(if line.running > 0 && line.bytes.is_some() {
                may_at.min(now.saturating_add(SECOND_LOOK))
            } else {
                may_at
            });
        }
        line.charge(asking.cost);
        Ok(())
    }

    /// Charges a request that runs whether it may or not: those after it pay for it.
    pub fn charge(&self, cost: Cost) {
        self.lines().of(cost.class).charge(cost);
    }

    /// Nothing of ring *ring* waits any more.
    pub fn leave(&self, ring: usize) {
        for line in &mut self.lines().by_class {
            if let Some(waiting) = line.waiting.get_mut(ring) {
                *waiting = None;
            }
        }
    }

    /// Ends a request that has moved *moved* bytes after *waited* nanoseconds.
    pub fn settle(&self, cost: Cost, moved: u64, waited: u64) {
        self.release(cost, moved);
        self.stats.admitted(cost.class, moved, waited);
    }

    /// Sets the charge right for a request that was let in and has moved *moved* bytes.
    pub fn release(&self, cost: Cost, moved: u64) {
        let mut lines = self.lines();
        let line = lines.of(cost.class);
        line.running = line.running.saturating_sub(1);
        if let Some(bytes) = &mut line.bytes {
            bytes.give_back(cost.bytes.saturating_sub(moved));
            bytes.charge(moved.saturating_sub(cost.bytes));
        }
    }

    /// How long a request waits before somebody is told, in nanoseconds.
    pub fn max_delay(&self) -> u64 {
        self.lines().limits.as_ref().map_or(u64::MAX, |limits| u64::from(limits.max_delay_ms) * MILLISECOND)
    }

    /// A request of *class* has waited for longer than that.
    pub fn overdue(&self, class: Class, waited: u64, now: u64) {
        self.stats.add(Counter::Overdue, 1);
        let before = self.warned.load(Ordering::Relaxed);
        let is_quiet = before != 0 && now.saturating_sub(before) < QUIET;
        if is_quiet || self.warned.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.untold.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let (name, milliseconds) = (class.name(), waited / MILLISECOND);
        let others = self.untold.swap(0, Ordering::Relaxed);
        let since = if others == 0 { String::new() } else { format!("; {others} more since the last such line") };
        log::warning(format_args!("throttled: a {name} waits for {milliseconds} ms, longer than max-delay{since}"));
    }

    /// Most bytes that one request should move: what INIT offers, and where a copy within the share ends.
    pub fn chunk(&self) -> u64 {
        self.lines().limits.as_ref().map_or(MOST, chunk)
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn of(&mut self, class: Class) -> &mut Line {
        let [read, write, metadata] = &mut self.by_class;
        match class {
            Class::Read => read,
            Class::Write => write,
            Class::Metadata => metadata,
        }
    }

    fn change(&mut self, limits: Option<Limits>, now: u64) {
        let rates = |pick: fn(&Limits) -> Option<u64>| limits.as_ref().and_then(pick);
        let burst_ms = limits.as_ref().map_or(0, |limits| limits.burst_ms);
        let chunk = limits.as_ref().map_or(0, chunk);
        let set = |bucket: &mut Option<Bucket>, rate: Option<u64>, largest: u64| {
            change(bucket, rate, burst_ms, largest, now);
        };
        let [read, write, metadata] = &mut self.by_class;
        set(&mut read.bytes, rates(|limits| limits.read), chunk);
        set(&mut read.operations, rates(|limits| limits.read_ops), 1);
        set(&mut write.bytes, rates(|limits| limits.write), chunk);
        set(&mut write.operations, rates(|limits| limits.write_ops), 1);
        set(&mut metadata.operations, rates(|limits| limits.metadata_ops), 1);
        self.by_class.iter_mut().for_each(|line| line.waiting = [None; RINGS]);
        self.limits = limits;
    }
}

impl Line {
    fn buckets(&mut self) -> impl Iterator<Item = &mut Bucket> {
        self.bytes.iter_mut().chain(self.operations.iter_mut())
    }

    fn charge(&mut self, cost: Cost) {
        self.running = self.running.saturating_add(1);
        if let Some(bytes) = &mut self.bytes {
            bytes.charge(cost.bytes);
        }
        if let Some(operations) = &mut self.operations {
            operations.charge(1);
        }
    }
}

fn change(bucket: &mut Option<Bucket>, rate: Option<u64>, burst_ms: u32, largest: u64, now: u64) {
    let Some(rate) = rate else {
        *bucket = None;
        return;
    };
    let burst = u128::from(rate) * u128::from(burst_ms) / 1000;
    let burst = u64::try_from(burst).unwrap_or(u64::MAX);
    match bucket {
        Some(bucket) => bucket.change(rate, burst, largest, now),
        None => *bucket = Some(Bucket::new(rate, burst, largest, now)),
    }
}

fn chunk(limits: &Limits) -> u64 {
    let of_rate = |rate: u64| (rate / 4 / PAGE * PAGE).max(LEAST_CHUNK);
    limits.read.into_iter().chain(limits.write).map(of_rate).min().unwrap_or(MOST).min(MOST)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use proptest::prelude::*;

    fn read_limits(read_ops: u64) -> Limits {
        Limits {
            read: None,
            write: None,
            read_ops: Some(read_ops),
            write_ops: None,
            metadata_ops: None,
            burst_ms: 1,
            max_delay_ms: 1000,
        }
    }

    fn limiter(read_ops: u64) -> Limiter {
        Limiter::new(Some(read_limits(read_ops)), 0, Box::leak(Box::new(Stats::private())))
    }

    fn read(ring: usize, since: u64) -> Asking {
        Asking { ring, cost: Cost { class: Class::Read, bytes: 0 }, since }
    }

    #[test]
    fn a_ring_that_asks_more_often_does_not_pass_one_that_has_waited_longer() {
        let limiter = limiter(10);
        assert_eq!(limiter.ask(read(1, 0), 0), Ok(()));
        let paid = 100 * MILLISECOND;
        assert_eq!(limiter.ask(read(2, 1), 1), Err(paid));
        assert_eq!(limiter.ask(read(1, 2), 2), Err(paid + PRECEDENCE));
        assert_eq!(limiter.ask(read(1, 2), paid), Err(paid + PRECEDENCE), "it is there first");
        assert_eq!(limiter.ask(read(2, 1), paid + PRECEDENCE / 2), Ok(()), "and comes second");
        assert_eq!(limiter.ask(read(1, 2), 2 * paid + PRECEDENCE / 2), Ok(()));
    }

    #[test]
    fn a_ring_whose_thread_is_busy_holds_up_the_others_for_no_longer_than_a_millisecond() {
        let limiter = limiter(10);
        assert_eq!(limiter.ask(read(1, 0), 0), Ok(()));
        let paid = 100 * MILLISECOND;
        assert_eq!(limiter.ask(read(2, 1), 1), Err(paid));
        assert_eq!(limiter.ask(read(1, 2), paid + PRECEDENCE), Ok(()));
    }

    #[test]
    fn what_a_running_request_gives_back_is_there_for_whoever_waits() {
        let limits = Limits { read: Some(1000), read_ops: None, ..read_limits(1) };
        let limiter = Limiter::new(Some(limits), 0, Box::leak(Box::new(Stats::private())));
        let large = Asking { cost: Cost { class: Class::Read, bytes: MOST }, ..read(1, 0) };
        assert_eq!(limiter.ask(large, 0), Ok(()));
        assert_eq!(limiter.ask(read(2, 1), 1), Err(1 + SECOND_LOOK), "and not in a quarter of an hour");
        limiter.settle(large.cost, 10, 0);
        assert_eq!(limiter.ask(read(2, 1), 1 + SECOND_LOOK), Ok(()), "ten bytes are paid for");
    }

    /// Rings that ask as their threads do, in a time of their own; returns when each request was let in.
    fn run(limiter: &Limiter, mut rings: Vec<VecDeque<(u64, u64)>>) -> Vec<(u64, u64)> {
        let (mut now, mut admitted) = (0, Vec::new());
        let mut due = vec![0; rings.len()];
        while rings.iter().any(|ring| !ring.is_empty()) {
            for (ring, waiting) in rings.iter_mut().enumerate() {
                while let Some((since, bytes)) = waiting.front().copied().filter(|(since, _)| *since <= now) {
                    let cost = Cost { class: Class::Read, bytes };
                    if due.get(ring).is_some_and(|due| *due > now) {
                        break;
                    }
                    if let Err(later) = limiter.ask(Asking { ring, cost, since }, now) {
                        assert!(later > now, "nobody asks in a circle");
                        due.iter_mut().skip(ring).take(1).for_each(|due| *due = later);
                        break;
                    }
                    limiter.settle(cost, bytes, 0);
                    admitted.push((now, bytes));
                    waiting.pop_front();
                }
            }
            let next = rings.iter().zip(&due).filter_map(|(ring, due)| Some(ring.front()?.0.max(*due).max(now + 1)));
            now = next.min().unwrap_or(now);
        }
        admitted
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rings_together_keep_to_both_rates_in_every_window_and_each_comes_to_its_end(
            rates in (1u64 << 14..1 << 24, 1u64..10_000, 1u32..2000),
            rings in prop::collection::vec(
                prop::collection::vec((0..500 * MILLISECOND, 0..=LEAST_CHUNK), 0..12), 1..4),
        ) {
            let (bytes, operations, burst_ms) = rates;
            let limits = Limits { read: Some(bytes), burst_ms, ..read_limits(operations) };
            let largest = u128::from(chunk(&limits));
            let limiter = Limiter::new(Some(limits), 0, Box::leak(Box::new(Stats::private())));
            let rings = rings.into_iter().map(|ring| {
                let mut since = 0;
                ring.into_iter().map(|(gap, bytes)| { since += gap; (since, bytes) }).collect()
            }).collect();
            let admitted = run(&limiter, rings);
            let saved_up = |rate: u64| u128::from(rate) * u128::from(burst_ms) * u128::from(MILLISECOND);
            let second = u128::from(1000 * MILLISECOND);
            for first in 0..admitted.len() {
                let window: Vec<_> = admitted.iter().skip(first).collect();
                let start = window.first().map_or(0, |(at, _)| *at);
                let (mut count, mut sum) = (0u128, 0u128);
                for (at, bytes_of_it) in window {
                    count += 1;
                    sum += u128::from(*bytes_of_it);
                    let time = u128::from(at - start);
                    prop_assert!(sum * second <= u128::from(bytes) * time + saved_up(bytes).max(largest * second));
                    prop_assert!(count * second <= u128::from(operations) * time + saved_up(operations).max(second));
                }
            }
        }
    }

    #[test]
    fn a_ring_that_came_to_rest_has_no_precedence() {
        let limiter = limiter(10);
        assert_eq!(limiter.ask(read(1, 0), 0), Ok(()));
        let paid = 100 * MILLISECOND;
        assert_eq!(limiter.ask(read(2, 1), 1), Err(paid));
        limiter.leave(2);
        assert_eq!(limiter.ask(read(1, 2), paid), Ok(()));
    }
}

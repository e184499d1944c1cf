//! Requests that a limit holds back, each with the ring it came from: a line for each class, none for the rest.
//!
//! What waits is a chain's head and a private copy of the FUSE header, by which the request was classed and will be
//! served. Its buffers are found again when its turn comes.
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::VecDeque;

use super::inflight::monotonic;
use crate::buffers::Buffers;
use crate::fuse::Header;
use crate::limit::{Asking, Class, Cost, Limiter};

/// A request that may run.
#[derive(Clone, Copy, Debug)]
pub struct Admitted {
    pub head: u16,
    /// What a limit was asked for: the header that was judged, the charge, and the nanoseconds waited.
    pub charged: Option<(Header, Cost, u64)>,
}

impl Admitted {
    /// One that nothing holds back.
    pub fn freely(head: u16) -> Self {
        Self { head, charged: None }
    }
}

#[derive(Debug)]
struct Waiting {
    head: u16,
    header: Header,
    cost: Cost,
    since: u64,
    /// Somebody has been told that this takes long.
    told: bool,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// When to ask for the first one again.
    due: u64,
}

/// What one ring's thread holds back.
#[derive(Debug)]
pub struct Parked {
    ring: usize,
    lines: [Line; 3],
    /// Where the next look begins, so that each class has its turn.
    turn: usize,
    max_delay: u64,
}

impl Parked {
    pub fn new(ring: usize) -> Self {
        Self { ring, lines: Default::default(), turn: 0, max_delay: u64::MAX }
    }

    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.waiting.is_empty())
    }

    pub fn len(&self) -> usize {
        self.lines.iter().map(|line| line.waiting.len()).sum()
    }

    /// The limits may have changed: everybody asks again.
    pub fn reschedule(&mut self, limiter: &Limiter) {
        self.lines.iter_mut().for_each(|line| line.due = 0);
        self.max_delay = if limiter.is_set() { limiter.max_delay() } else { u64::MAX };
    }

    /// Judges a chain that was just taken: it may run, or waits at the end of its class's line.
    pub fn admit(
        &mut self,
        head: u16,
        request: &Buffers<'_>,
        reply: &Buffers<'_>,
        limiter: &Limiter,
    ) -> Option<Admitted> {
        let Some(header) = Header::read(request) else { return Some(Admitted::freely(head)) };
        let Some(cost) = Cost::of(&header, request, reply) else { return Some(Admitted::freely(head)) };
        let now = monotonic();
        let line = self.lines.get_mut(cost.class as usize)?;
        if line.waiting.is_empty() {
            match limiter.ask(Asking { ring: self.ring, cost, since: now }, now) {
                Ok(()) => return Some(Admitted { head, charged: Some((header, cost, 0)) }),
                Err(due) => line.due = due,
            }
        }
        line.waiting.push_back(Waiting { head, header, cost, since: now, told: false });
        None
    }

    /// The next request whose time has come.
    pub fn ready(&mut self, limiter: &Limiter) -> Option<Admitted> {
        if self.is_empty() {
            return None;
        }
        let now = monotonic();
        for step in 0..Class::ALL.len() {
            let turn = (self.turn + step) % Class::ALL.len();
            let line = self.lines.get_mut(turn)?;
            if let Some(admitted) = line.ready(self.ring, limiter, self.max_delay, now) {
                self.turn = turn + 1;
                return Some(admitted);
            }
        }
        None
    }

    /// Whoever has waited longest, to be run at once and charged all the same.
    pub fn pop(&mut self, limiter: &Limiter) -> Option<Admitted> {
        let since = |line: &&mut Line| line.waiting.front().map_or(u64::MAX, |waiting| waiting.since);
        let waiting = self.lines.iter_mut().min_by_key(since)?.waiting.pop_front()?;
        limiter.charge(waiting.cost);
        limiter.leave(self.ring);
        Some(waiting.admitted(monotonic()))
    }

    /// When to look again.
    pub fn wake_at(&self) -> Option<u64> {
        let of_line = |line: &Line| {
            let first = line.waiting.front()?;
            let telling = if first.told { u64::MAX } else { first.since.saturating_add(self.max_delay) };
            Some(line.due.min(telling))
        };
        self.lines.iter().filter_map(of_line).min()
    }

    /// Forgets everybody: their ring is broken.
    pub fn clear(&mut self, limiter: &Limiter) {
        self.lines.iter_mut().for_each(|line| line.waiting.clear());
        limiter.leave(self.ring);
    }
}

impl Line {
    fn ready(&mut self, ring: usize, limiter: &Limiter, max_delay: u64, now: u64) -> Option<Admitted> {
        let first = self.waiting.front_mut()?;
        let waited = now.saturating_sub(first.since);
        if waited >= max_delay && !first.told {
            first.told = true;
            limiter.overdue(first.cost.class, waited, now);
        }
        if self.due > now {
            return None;
        }
        if let Err(due) = limiter.ask(Asking { ring, cost: first.cost, since: first.since }, now) {
            self.due = due;
            return None;
        }
        self.waiting.pop_front().map(|waiting| waiting.admitted(now))
    }
}

impl Waiting {
    fn admitted(self, now: u64) -> Admitted {
        Admitted { head: self.head, charged: Some((self.header, self.cost, now.saturating_sub(self.since).max(1))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::fuse::Opcode;
    use crate::stats::Stats;

    fn admit(parked: &mut Parked, head: u16, limiter: &Limiter) -> Option<u16> {
        let mut request = [[0; 4], (Opcode::Getattr as u32).to_le_bytes()].concat();
        request.resize(40, 0);
        let (request, reply) = (Buffers::of(&mut request), Buffers::new());
        parked.admit(head, &request, &reply, limiter).map(|admitted| admitted.head)
    }

    #[test]
    fn a_newcomer_waits_behind_those_of_its_class_even_when_their_time_has_come() {
        let limits = Limits {
            read: None,
            write: None,
            read_ops: None,
            write_ops: None,
            metadata_ops: Some(50),
            burst_ms: 1,
            max_delay_ms: 1000,
        };
        let limiter = Limiter::new(Some(limits), monotonic(), Box::leak(Box::new(Stats::private())));
        let mut parked = Parked::new(1);
        assert_eq!(admit(&mut parked, 1, &limiter), Some(1));
        assert_eq!(admit(&mut parked, 2, &limiter), None);
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(admit(&mut parked, 3, &limiter), None);
        assert_eq!(parked.ready(&limiter).map(|admitted| admitted.head), Some(2));
        assert_eq!((parked.len(), parked.pop(&limiter).map(|admitted| admitted.head)), (1, Some(3)));
    }
}

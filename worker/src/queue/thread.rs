//! One thread per ring: take every available chain, serve, publish, signal once, park.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::inflight::{monotonic, InFlight};
use super::parked::{Admitted, Parked};
use super::ring::{Cursor, Ring, RingError};
use super::{Adopted, Position, Run, Shared};
use crate::buffers::Buffers;
use crate::confine::Tightening;
use crate::fs::{Served, Server, ThreadState};
use crate::ipc::Exit;
use crate::log::{self, Limited};
use crate::notify::wait;
use crate::stats::{Counter, Stats};

/// A batch is published at the latest after this long: one slow request must not hold back the answers before it.
const BATCH_NANOSECONDS: u64 = 100_000;

/// What all ring threads work with.
pub struct Work {
    pub server: Arc<Server>,
    pub inflight: InFlight,
    pub stats: &'static Stats,
    /// What each thread puts on once it is ready.
    pub tightening: Option<Tightening>,
}

/// The life of one ring's thread.
pub(super) fn run(ring: usize, shared: &Shared, work: &Work) {
    let mut state = work.server.thread();
    if let Some(Err(error)) = work.tightening.as_ref().map(Tightening::put_on) {
        log::error(format_args!("seccomp program of ring {ring}'s thread: {error}"));
        Exit::Internal.now();
    }
    let mut position = Position::default();
    let mut parked = Parked::new(ring);
    // The plan that what is parked came under.
    let mut last: Option<Run> = None;
    let mut broken = None;
    loop {
        let (version, plan) = match shared.adopt(position, !parked.is_empty()) {
            Adopted::Plan(version, run) => (version, run),
            Adopted::Drain => {
                let Some(run) = last.take() else {
                    parked.clear(work.server.limiter());
                    continue;
                };
                let mut server = Serving { ring, shared, work, run: &run, version: 0, state: &mut state };
                if let Err(error) = server.drain(&mut position.cursor, &mut parked) {
                    server.give_up(&error, &mut parked);
                }
                continue;
            }
            Adopted::End => return,
        };
        let Some(run) = plan.filter(|run| broken != Some(run.incarnation)) else {
            park(shared, None, None);
            continue;
        };
        let fresh = position.incarnation != run.incarnation;
        if fresh {
            position = Position::starting(&run);
        }
        state.comes_from(run.layout.size);
        let mut server = Serving { ring, shared, work, run: &run, version, state: &mut state };
        if let Err(error) = server.serve(&mut position.cursor, &mut parked, fresh) {
            broken = Some(run.incarnation);
            server.give_up(&error, &mut parked);
        }
        last = Some(run).filter(|_| !parked.is_empty());
    }
}

/// Waits for the control thread, for a kick if the ring runs, or until *until*. True if it was a kick.
fn park(shared: &Shared, run: Option<&Run>, until: Option<u64>) -> bool {
    let mut waiting = [
        PollFd::new(&shared.wake, PollFlags::IN),
        // A second look at the waker stands in for a kick that is not there.
        PollFd::from_borrowed_fd(run.map_or(shared.wake.as_fd(), |run| run.kick.as_fd()), PollFlags::IN),
    ];
    let left = until.map(|until| Duration::from_nanos(until.saturating_sub(monotonic())));
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    wait(&mut waiting, left.as_ref());
    if !waiting[0].revents().is_empty() {
        shared.wake.clear();
    }
    run.is_some_and(|run| run.kick.take())
}

/// One run of a ring under one plan.
struct Serving<'r> {
    ring: usize,
    shared: &'r Shared,
    work: &'r Work,
    run: &'r Run,
    version: u64,
    state: &'r mut ThreadState,
}

impl Serving<'_> {
    /// Serves until the plan changes (Ok) or the ring breaks. Everything completed is published either way.
    fn serve(&mut self, cursor: &mut Cursor, parked: &mut Parked, fresh: bool) -> Result<(), RingError> {
        let run = self.run;
        let mut ring = Ring::open(&run.memory, &run.layout, cursor)?;
        if fresh {
            ring.adopt_used();
        }
        parked.reschedule(self.work.server.limiter());
        let (mut request, mut reply) = (Buffers::new(), Buffers::new());
        while self.current() {
            ring.refuse_kicks();
            self.work.stats.holds(self.ring, ring.depth());
            let mut batch = None;
            while self.current() {
                let admitted = match self.next(&mut ring, parked, &mut request, &mut reply) {
                    Ok(Some(admitted)) => admitted,
                    Ok(None) => break,
                    Err(error) => {
                        self.publish(&mut ring);
                        return Err(error);
                    }
                };
                let (start, end) = self.answer(&mut ring, &admitted, &request, &reply);
                if end - *batch.get_or_insert(start) > BATCH_NANOSECONDS {
                    self.publish(&mut ring);
                    batch = None;
                }
            }
            self.publish(&mut ring);
            if self.current() && !ring.ask_for_kick() && park(self.shared, Some(run), parked.wake_at()) {
                self.work.stats.add(Counter::Kicks, 1);
            }
        }
        Ok(())
    }

    /// The next request that may run: one that has waited, or else the next chain of the ring that need not wait.
    fn next<'m>(
        &self,
        ring: &mut Ring<'m>,
        parked: &mut Parked,
        request: &mut Buffers<'m>,
        reply: &mut Buffers<'m>,
    ) -> Result<Option<Admitted>, RingError> {
        let limiter = self.work.server.limiter();
        if let Some(admitted) = parked.ready(limiter) {
            self.walk(ring, &admitted, request, reply)?;
            return Ok(Some(admitted));
        }
        while let Some(head) = ring.take(request, reply)? {
            if !limiter.is_set() && parked.is_empty() {
                return Ok(Some(Admitted::freely(head)));
            }
            if let Some(admitted) = parked.admit(head, request, reply, limiter) {
                return Ok(Some(admitted));
            }
            if parked.len() > usize::from(ring.size()) {
                return Err(RingError::Overfull(ring.size()));
            }
        }
        Ok(None)
    }

    /// Finds the buffers of a request that has waited.
    fn walk<'m>(
        &self,
        ring: &mut Ring<'m>,
        admitted: &Admitted,
        request: &mut Buffers<'m>,
        reply: &mut Buffers<'m>,
    ) -> Result<(), RingError> {
        let found = ring.walk(admitted.head, request, reply);
        if let (Err(_), Some((_, cost, _))) = (&found, admitted.charged) {
            self.work.server.limiter().release(cost, 0);
        }
        found
    }

    /// Serves one request and gives its chain back; returns when it began and ended.
    fn answer(
        &mut self,
        ring: &mut Ring<'_>,
        admitted: &Admitted,
        request: &Buffers<'_>,
        reply: &Buffers<'_>,
    ) -> (u64, u64) {
        let share = &self.work.server;
        let start = self.work.inflight.begin(self.ring);
        let served = match &admitted.charged {
            None => share.serve(self.state, request, reply),
            Some((header, cost, waited)) => {
                let served = share.serve_as(header, self.state, request, reply);
                share.limiter().settle(*cost, self.state.moved(), *waited);
                served
            }
        };
        let written = match served {
            Served::Reply(bytes) => bytes.min(u32::try_from(reply.len()).unwrap_or(u32::MAX)),
            Served::Silent => 0,
        };
        self.work.inflight.end(self.ring);
        let end = monotonic();
        if let Some(opcode) = self.state.opcode() {
            self.work.stats.took(opcode, end.saturating_sub(start));
        }
        ring.complete(admitted.head, written);
        (start, end)
    }

    /// Runs at once, in order, all that waits: the ring comes to rest.
    fn drain(&mut self, cursor: &mut Cursor, parked: &mut Parked) -> Result<(), RingError> {
        let run = self.run;
        let mut ring = Ring::open(&run.memory, &run.layout, cursor)?;
        let (mut request, mut reply) = (Buffers::new(), Buffers::new());
        while let Some(admitted) = parked.pop(self.work.server.limiter()) {
            if let Err(error) = self.walk(&mut ring, &admitted, &mut request, &mut reply) {
                self.publish(&mut ring);
                return Err(error);
            }
            self.answer(&mut ring, &admitted, &request, &reply);
        }
        self.publish(&mut ring);
        Ok(())
    }

    /// The ring is broken, with all that waits in it.
    fn give_up(&self, error: &RingError, parked: &mut Parked) {
        static BROKEN: Limited = Limited::new();
        parked.clear(self.work.server.limiter());
        self.work.stats.add(Counter::RingErrors, 1);
        BROKEN.warning(format_args!("ring {} stopped: {error}", self.ring));
        if let Some(descriptor) = &self.run.error {
            descriptor.signal();
        }
    }

    fn publish(&self, ring: &mut Ring<'_>) {
        let answers = ring.unpublished();
        if answers > 0 {
            self.work.stats.published(self.ring, answers);
            self.work.stats.holds(self.ring, ring.depth());
        }
        if ring.publish() {
            self.shared.signal(self.work.stats);
        }
    }

    fn current(&self) -> bool {
        self.shared.version.load(Ordering::Acquire) == self.version
    }
}

//! One thread per ring: take every available chain, serve, publish, signal once, park.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags};

use super::inflight::{monotonic, InFlight};
use super::ring::{Cursor, Ring, RingError};
use super::{Adopted, Position, Run, Shared};
use crate::buffers::Buffers;
use crate::confine::Tightening;
use crate::fs::{Served, Server};
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
    static BROKEN: Limited = Limited::new();
    let mut state = work.server.thread();
    if let Some(Err(error)) = work.tightening.as_ref().map(Tightening::put_on) {
        log::error(format_args!("seccomp program of ring {ring}'s thread: {error}"));
        Exit::Internal.now();
    }
    let mut position = Position::default();
    let mut broken = None;
    loop {
        let (version, plan) = match shared.adopt(position) {
            Adopted::Plan(version, run) => (version, run),
            Adopted::End => return,
        };
        let Some(run) = plan.filter(|run| broken != Some(run.incarnation)) else {
            park(shared, None);
            continue;
        };
        let fresh = position.incarnation != run.incarnation;
        if fresh {
            position = Position::starting(&run);
        }
        let mut server = Serving { ring, shared, work, run: &run, version };
        if let Err(error) =
            server.serve(&mut position.cursor, fresh, |request, reply| work.server.serve(&mut state, request, reply))
        {
            broken = Some(run.incarnation);
            work.stats.add(Counter::RingErrors, 1);
            BROKEN.warning(format_args!("ring {ring} stopped: {error}"));
            if let Some(error) = &run.error {
                error.signal();
            }
        }
    }
}

/// Waits for the control thread, and for a kick if the ring runs. True if it was a kick.
fn park(shared: &Shared, run: Option<&Run>) -> bool {
    let mut waiting = [
        PollFd::new(&shared.wake, PollFlags::IN),
        // A second look at the waker stands in for a kick that is not there.
        PollFd::from_borrowed_fd(run.map_or(shared.wake.as_fd(), |run| run.kick.as_fd()), PollFlags::IN),
    ];
    wait(&mut waiting, None);
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
}

impl Serving<'_> {
    /// Serves until the plan changes (Ok) or the ring breaks. Everything completed is published either way.
    fn serve(
        &mut self,
        cursor: &mut Cursor,
        fresh: bool,
        mut answer: impl FnMut(&Buffers<'_>, &Buffers<'_>) -> Served,
    ) -> Result<(), RingError> {
        let memory = &*self.run.memory;
        let mut ring = Ring::open(memory, &self.run.layout, cursor)?;
        if fresh {
            ring.adopt_used();
        }
        let (mut request, mut reply) = (Buffers::new(), Buffers::new());
        while self.current() {
            ring.refuse_kicks();
            let mut batch = None;
            while self.current() {
                let head = match ring.take(&mut request, &mut reply) {
                    Ok(Some(head)) => head,
                    Ok(None) => break,
                    Err(error) => {
                        self.publish(&mut ring);
                        return Err(error);
                    }
                };
                let start = self.work.inflight.begin(self.ring);
                let written = match answer(&request, &reply) {
                    Served::Reply(bytes) => bytes.min(u32::try_from(reply.len()).unwrap_or(u32::MAX)),
                    Served::Silent => 0,
                };
                self.work.inflight.end(self.ring);
                ring.complete(head, written);
                if monotonic() - *batch.get_or_insert(start) > BATCH_NANOSECONDS {
                    self.publish(&mut ring);
                    batch = None;
                }
            }
            self.publish(&mut ring);
            if self.current() && !ring.ask_for_kick() && park(self.shared, Some(self.run)) {
                self.work.stats.add(Counter::Kicks, 1);
            }
        }
        Ok(())
    }

    fn publish(&self, ring: &mut Ring<'_>) {
        if ring.publish() {
            self.shared.signal(self.work.stats);
        }
    }

    fn current(&self) -> bool {
        self.shared.version.load(Ordering::Acquire) == self.version
    }
}

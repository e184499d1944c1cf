//! Rings and their threads, as the session sees them.
//!
//! The control thread never waits for a ring's lock: it writes a new *plan*, wakes the ring's thread and goes on. The
//! thread takes the plan up between two requests and says so; a session that must know (GET_VRING_BASE) looks for that.

pub mod chain;
pub mod inflight;
pub mod parked;
pub mod ring;
pub mod thread;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread as threads;

use crate::memory::Memory;
use crate::notify::{Call, Kick, Waker};
use crate::stats::{Counter, Stats};
use ring::{Cursor, Layout};
use thread::Work;

/// File systems walk paths on this stack; a million descriptors do not pass through it.
const STACK_BYTES: usize = 512 * 1024;

/// A ring that is to be served.
#[derive(Clone)]
pub struct Run {
    pub memory: Arc<Memory>,
    pub layout: Layout,
    pub kick: Arc<Kick>,
    pub error: Option<Arc<Call>>,
    /// Counts starts: a new one means that the ring begins at `base`, and that an old error is forgotten.
    pub incarnation: u64,
    pub base: u16,
}

/// Where a ring's thread has got to, in which incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub incarnation: u64,
    pub cursor: Cursor,
}

impl Position {
    fn starting(run: &Run) -> Self {
        let cursor = Cursor { next_available: run.base, next_used: run.base };
        Self { incarnation: run.incarnation, cursor }
    }
}

#[derive(Default)]
struct Plan {
    version: u64,
    run: Option<Run>,
    /// The last plan taken up, and where the ring stood then.
    taken: u64,
    position: Position,
    ended: bool,
}

/// What a ring's thread is to do now.
enum Adopted {
    /// Serve, or rest, under the plan of this version.
    Plan(u64, Option<Run>),
    /// Run what waits first: the plan leaves the ring that it came from.
    Drain,
    /// The queue is gone.
    End,
}

/// Between the control thread and one ring's thread.
struct Shared {
    plan: Mutex<Plan>,
    /// Copy of the plan's version, for a look between two requests.
    version: AtomicU64,
    wake: Waker,
    control: Arc<Waker>,
    call: Mutex<Option<Arc<Call>>>,
}

impl Shared {
    /// Takes up the current plan; *position* is where the ring stands after the one before. *parked*: requests of it
    /// wait, which only a plan for the same ring leaves waiting.
    fn adopt(&self, position: Position, parked: bool) -> Adopted {
        let mut plan = lock(&self.plan);
        let goes_on = plan.run.as_ref().is_some_and(|run| run.incarnation == position.incarnation) && !plan.ended;
        if parked && !goes_on {
            return Adopted::Drain;
        }
        plan.position = position;
        if plan.taken != plan.version {
            plan.taken = plan.version;
            self.control.wake();
        }
        if plan.ended {
            return Adopted::End;
        }
        Adopted::Plan(plan.version, plan.run.clone())
    }

    /// Signals the driver that used entries wait.
    fn signal(&self, stats: &Stats) {
        // Written outside the lock: a monitor that makes its pipe blocking again holds up this ring and nobody else.
        let call = lock(&self.call).clone();
        if let Some(call) = call {
            call.signal();
            stats.add(Counter::Interrupts, 1);
        }
    }
}

/// One ring, as the control thread holds it.
pub struct Queue {
    shared: Arc<Shared>,
}

impl Queue {
    /// Makes ring number *ring* and its thread, which waits for a plan. *control* is woken when a plan is taken up.
    pub fn spawn(ring: usize, control: &Arc<Waker>, work: &Arc<Work>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            plan: Mutex::default(),
            version: AtomicU64::new(0),
            wake: Waker::new()?,
            control: Arc::clone(control),
            call: Mutex::new(None),
        });
        let (theirs, work) = (Arc::clone(&shared), Arc::clone(work));
        // syscall clone: one thread per ring (clone3 is tried first and answers ENOSYS in the jail)
        threads::Builder::new()
            .name(if ring == 0 { "hiprio".into() } else { format!("queue-{ring}") })
            .stack_size(STACK_BYTES)
            .spawn(move || thread::run(ring, &theirs, &work))?;
        Ok(Self { shared })
    }

    /// Changes the plan: serve *run*, or nothing.
    pub fn plan(&self, run: Option<Run>) {
        self.change(|plan| plan.run = run);
    }

    /// Asks the thread to pass by between two requests; [`Self::settled`] tells when it has.
    pub fn call_by(&self) {
        self.change(|_| ());
    }

    fn change(&self, change: impl FnOnce(&mut Plan)) {
        let mut plan = lock(&self.shared.plan);
        change(&mut plan);
        plan.version += 1;
        self.shared.version.store(plan.version, Ordering::Release);
        drop(plan);
        self.shared.wake.wake();
    }

    /// The ring's position if its thread has taken up the latest plan: after `plan(None)` that means it is at rest.
    pub fn settled(&self) -> Option<Position> {
        let plan = lock(&self.shared.plan);
        (plan.taken == plan.version).then_some(plan.position)
    }

    /// Replaces the call descriptor. *running*: the driver may have missed a signal to the old one, so the new one gets
    /// one; a spurious interrupt is harmless.
    pub fn set_call(&self, call: Option<Call>, running: bool) {
        let call = call.map(Arc::new);
        (*lock(&self.shared.call)).clone_from(&call);
        if let Some(call) = call.filter(|_| running) {
            call.signal();
        }
    }
}

impl Drop for Queue {
    /// Lets the thread end after the request it works on.
    fn drop(&mut self) {
        self.change(|plan| plan.ended = true);
    }
}

/// A poisoned lock would mean a panic, and a panic ends the process: there is nothing to recover from.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

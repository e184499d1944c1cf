//! The monitor's side of each ring: what it has set up so far, and the plan that follows for the ring's thread.
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt;
use std::sync::Arc;

use super::message::features;
use crate::memory::Memory;
use crate::notify::{Call, Kick};
use crate::queue::ring::{Layout, MAX_SIZE};
use crate::queue::{Queue, Run};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    Index(u32),
    Size(u32),
    Base(u32),
    Enable(u32),
    Log,
    Running,
    Incomplete,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(ring) => write!(f, "there is no ring {ring}"),
            Self::Size(size) => write!(f, "a ring of {size} entries; 1 to {MAX_SIZE} are possible"),
            Self::Base(base) => write!(f, "index {base} does not fit 16 bits"),
            Self::Enable(value) => write!(f, "neither 0 nor 1 but {value}"),
            Self::Log => write!(f, "logging was not offered"),
            Self::Running => write!(f, "a ring is running"),
            Self::Incomplete => write!(f, "the ring has no size or no addresses yet"),
        }
    }
}

#[derive(Default)]
struct Setup {
    size: u16,
    addresses: Option<Addresses>,
    /// Available index to start from; after a stop, where the ring stood.
    base: u16,
    /// Set since the last start, so that the next one begins anew at `base`.
    base_is_new: bool,
    kick: Option<Arc<Kick>>,
    error: Option<Arc<Call>>,
    enabled: bool,
    incarnation: u64,
    /// The last plan was to serve.
    running: bool,
}

/// All rings of one session.
pub struct Rings<'d> {
    queues: &'d [Queue],
    setups: Vec<Setup>,
    features: u64,
    starts: u64,
    /// Some ring was running when `has_begun` last looked.
    begun: bool,
}

impl<'d> Rings<'d> {
    pub fn new(queues: &'d [Queue]) -> Self {
        Self { queues, setups: queues.iter().map(|_| Setup::default()).collect(), features: 0, starts: 0, begun: false }
    }

    fn find(&mut self, ring: u32) -> Result<(usize, &mut Setup), SetupError> {
        let index = ring as usize;
        self.setups.get_mut(index).map(|setup| (index, setup)).ok_or(SetupError::Index(ring))
    }

    fn resting(&mut self, ring: u32) -> Result<&mut Setup, SetupError> {
        match self.find(ring)? {
            (_, setup) if setup.running => Err(SetupError::Running),
            (_, setup) => Ok(setup),
        }
    }

    /// A guest chooses the size, in some monitors unchecked: one that is no power of two stops its ring, not the session.
    pub fn set_size(&mut self, ring: u32, size: u32) -> Result<(), SetupError> {
        let checked = u16::try_from(size).ok().filter(|size| (1..=MAX_SIZE).contains(size));
        self.resting(ring)?.size = checked.ok_or(SetupError::Size(size))?;
        Ok(())
    }

    pub fn set_addresses(
        &mut self,
        ring: u32,
        flags: u32,
        addresses: Addresses,
        memory: &Arc<Memory>,
    ) -> Result<(), SetupError> {
        let (index, setup) = self.find(ring)?;
        if flags != 0 {
            return Err(SetupError::Log);
        }
        setup.addresses = Some(addresses);
        self.plan(index, memory);
        Ok(())
    }

    /// True if this looks like another driver: a ring that had moved on starts from 0 again while none is running.
    pub fn set_base(&mut self, ring: u32, base: u32) -> Result<bool, SetupError> {
        let base = u16::try_from(base).map_err(|_| SetupError::Base(base))?;
        let setup = self.resting(ring)?;
        let restart = base == 0 && setup.base != 0 && setup.kick.is_none();
        setup.base = base;
        setup.base_is_new = true;
        Ok(restart && self.setups.iter().all(|setup| !setup.running))
    }

    pub fn start(&mut self, ring: u32, kick: Kick, memory: &Arc<Memory>) -> Result<(), SetupError> {
        let starts = self.starts + 1;
        let (index, setup) = self.find(ring)?;
        if setup.size == 0 || setup.addresses.is_none() {
            return Err(SetupError::Incomplete);
        }
        if setup.kick.is_none() || setup.base_is_new {
            setup.incarnation = starts;
            setup.base_is_new = false;
        }
        setup.kick = Some(Arc::new(kick));
        self.starts = starts;
        self.plan(index, memory);
        Ok(())
    }

    pub fn set_call(&mut self, ring: u32, call: Option<Call>) -> Result<(), SetupError> {
        let (index, setup) = self.find(ring)?;
        let running = setup.running;
        if let Some(queue) = self.queues.get(index) {
            queue.set_call(call, running);
        }
        Ok(())
    }

    pub fn set_error(&mut self, ring: u32, error: Option<Call>, memory: &Arc<Memory>) -> Result<(), SetupError> {
        let (index, setup) = self.find(ring)?;
        setup.error = error.map(Arc::new);
        self.plan(index, memory);
        Ok(())
    }

    /// Returns the ring's index: when it is at rest, disabling is done.
    pub fn enable(&mut self, ring: u32, enable: u32, memory: &Arc<Memory>) -> Result<usize, SetupError> {
        let (index, setup) = self.find(ring)?;
        setup.enabled = match enable {
            0 => false,
            1 => true,
            other => return Err(SetupError::Enable(other)),
        };
        self.plan(index, memory);
        Ok(index)
    }

    pub fn set_features(&mut self, bits: u64, memory: &Arc<Memory>) -> Result<(), SetupError> {
        if self.setups.iter().any(|setup| setup.running) {
            return Err(SetupError::Running);
        }
        self.features = bits;
        self.replan(memory);
        Ok(())
    }

    /// Stops a ring; it is at rest when its thread has seen that.
    pub fn stop(&mut self, ring: u32) -> Result<usize, SetupError> {
        let (index, setup) = self.find(ring)?;
        setup.kick = None;
        self.plan(index, &Arc::default());
        Ok(index)
    }

    /// Back to the start, except for what monitors do not send again: call and error descriptors, sizes, addresses.
    pub fn reset(&mut self) {
        for index in 0..self.setups.len() {
            if let Some(setup) = self.setups.get_mut(index) {
                setup.kick = None;
                setup.enabled = false;
                setup.base = 0;
            }
            self.plan(index, &Arc::default());
        }
    }

    /// Has *ring* (or, for `None`, every ring) taken up its latest plan?
    pub fn at_rest(&self, ring: Option<usize>) -> bool {
        match ring {
            Some(ring) => self.queues.get(ring).is_none_or(|queue| queue.settled().is_some()),
            None => self.queues.iter().all(|queue| queue.settled().is_some()),
        }
    }

    /// Where a stopped ring stands: also what it starts from next, unless the monitor says otherwise.
    pub fn base(&mut self, ring: usize) -> u16 {
        let position = self.queues.get(ring).and_then(Queue::settled);
        let Some(setup) = self.setups.get_mut(ring) else { return 0 };
        if let Some(position) = position.filter(|position| position.incarnation == setup.incarnation) {
            if !setup.base_is_new {
                setup.base = position.cursor.next_available;
            }
        }
        setup.base
    }

    /// True once after the first ring of a driver has begun to run; again after all have stopped.
    pub fn has_begun(&mut self) -> bool {
        let before = self.begun;
        self.begun = self.setups.iter().any(|setup| setup.running);
        self.begun && !before
    }

    /// Gives every running ring the new *memory*.
    pub fn replan(&mut self, memory: &Arc<Memory>) {
        for index in 0..self.setups.len() {
            self.plan(index, memory);
        }
    }

    /// Tells ring *index*'s thread what follows from its set-up, if that is or was more than nothing.
    fn plan(&mut self, index: usize, memory: &Arc<Memory>) {
        let features = self.features;
        let (Some(setup), Some(queue)) = (self.setups.get_mut(index), self.queues.get(index)) else { return };
        let run = setup.run(features, memory);
        if run.is_some() || setup.running {
            setup.running = run.is_some();
            queue.plan(run);
        }
    }
}

impl Setup {
    /// What the ring's thread should do: serve when the ring is started, and enabled (which is not asked where the
    /// monitor does not know protocol features).
    fn run(&self, features: u64, memory: &Arc<Memory>) -> Option<Run> {
        if !self.enabled && features & features::PROTOCOL_FEATURES != 0 {
            return None;
        }
        let (kick, addresses) = (self.kick.as_ref()?, self.addresses?);
        let layout = Layout {
            size: self.size,
            descriptors: addresses.descriptors,
            available: addresses.available,
            used: addresses.used,
            event_idx: features & features::EVENT_IDX != 0,
            indirect: features & features::INDIRECT_DESC != 0,
        };
        Some(Run {
            memory: Arc::clone(memory),
            layout,
            kick: Arc::clone(kick),
            error: self.error.clone(),
            incarnation: self.incarnation,
            base: self.base,
        })
    }
}

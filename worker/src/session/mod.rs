//! One monitor's vhost-user session: which message may come when, and what it changes.
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

pub mod message;
pub mod setup;
pub mod socket;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fs::Server;
use crate::ipc::Client;
use crate::log::{self, Limited};
use crate::memory::{Memory, RegionDescription, RegionError, MAX_REGIONS};
use crate::notify::{Call, Kick, NotifyError};
use crate::queue::Queue;
use message::{features, protocol, reply, Code, Malformed, Request};
use setup::{Addresses, Rings, SetupError};
use socket::{Received, Socket, SocketError, Step};

/// Messages handled in one go: a monitor that never pauses must not keep the control thread from the supervisor.
const MAX_MESSAGES: usize = 64;

/// How long the requests in flight may take when a ring is to come to rest.
pub const DRAIN: Duration = Duration::from_secs(10);

const TAG_BYTES: usize = 36;
const CONFIG_BYTES: usize = 40;

/// The device behind a session; outlives it.
pub struct Device {
    pub queues: Vec<Queue>,
    pub server: Arc<Server>,
    /// The detached procfs: tells what a received descriptor is.
    pub proc: OwnedFd,
    /// Configuration space: tag padded with zeros, number of request queues (virtio 1.3, section 5.11.4).
    pub config_space: [u8; CONFIG_BYTES],
}

impl Device {
    pub fn config_space(tag: &str, request_queues: u16) -> [u8; CONFIG_BYTES] {
        let mut space = [0; CONFIG_BYTES];
        let (name, queues) = space.split_at_mut(TAG_BYTES);
        name.iter_mut().zip(tag.bytes()).for_each(|(slot, byte)| *slot = byte);
        queues.copy_from_slice(&u32::from(request_queues).to_le_bytes());
        space
    }
}

/// Why a monitor's message is refused. Always ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Malformed(Malformed),
    NotNegotiated,
    Features(u64),
    Region(RegionError),
    Descriptor(NotifyError),
    Setup(SetupError),
    BackendSocket,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => error.fmt(f),
            Self::NotNegotiated => write!(f, "its protocol feature was not negotiated"),
            Self::Features(bits) => write!(f, "features {bits:#x} were not offered"),
            Self::Region(error) => error.fmt(f),
            Self::Descriptor(error) => error.fmt(f),
            Self::Setup(error) => error.fmt(f),
            Self::BackendSocket => write!(f, "the descriptor is no UNIX stream socket"),
        }
    }
}

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    ClientLeft,
    Refused(Code, Refusal),
    Socket(SocketError),
    NotDrained(Code),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientLeft => write!(f, "the monitor has closed the connection"),
            Self::Refused(code, refusal) => write!(f, "{} refused: {refusal}", code.name()),
            Self::Socket(error) => write!(f, "vhost-user message refused: {error}"),
            Self::NotDrained(code) => {
                write!(f, "{}: requests still run after {} seconds", code.name(), DRAIN.as_secs())
            }
        }
    }
}

/// A reply that waits until rings have come to rest.
struct Waiting {
    code: Code,
    /// One ring, or all of them.
    ring: Option<usize>,
    need_reply: bool,
    until: Instant,
}

pub struct Session<'d> {
    device: &'d Device,
    socket: Socket,
    features: u64,
    protocol: u64,
    memory: Arc<Memory>,
    rings: Rings<'d>,
    waiting: Option<Waiting>,
    /// The monitor's channel for requests of the device, of which there are none yet: it stays open.
    backend: Option<OwnedFd>,
    news: Vec<Client>,
}

impl<'d> Session<'d> {
    pub fn new(device: &'d Device, socket: Socket) -> Self {
        Self {
            device,
            socket,
            features: 0,
            protocol: 0,
            memory: Arc::default(),
            rings: Rings::new(&device.queues),
            waiting: None,
            backend: None,
            news: Vec::new(),
        }
    }

    /// What the supervisor should hear about since the last call.
    pub fn take_news(&mut self) -> Vec<Client> {
        std::mem::take(&mut self.news)
    }

    /// When a wait for rings ends in [`End::NotDrained`].
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|waiting| waiting.until)
    }

    /// What to poll the monitor's socket for: (readable, writable). Neither while rings come to rest.
    pub fn interest(&self) -> (bool, bool) {
        match (&self.waiting, self.socket.is_blocked()) {
            (Some(_), _) => (false, false),
            (None, true) => (false, true),
            (None, false) => (true, false),
        }
    }

    /// Goes on as far as it gets without waiting, but not for ever: sends, settles, reads and handles messages.
    pub fn advance(&mut self) -> Result<(), End> {
        for _ in 0..MAX_MESSAGES {
            self.socket.flush().map_err(End::Socket)?;
            self.settle()?;
            if self.waiting.is_some() || self.socket.is_blocked() {
                return Ok(());
            }
            match self.socket.receive().map_err(End::Socket)? {
                Step::Message(received) => self.handle(received)?,
                Step::Wait => return Ok(()),
                Step::Closed => return Err(End::ClientLeft),
            }
        }
        Ok(())
    }

    fn handle(&mut self, received: Received) -> Result<(), End> {
        let (code, need_reply) = (received.header.code, received.header.need_reply);
        log::debug(format_args!("vhost-user: {}", code.name()));
        let outcome = self.judge_and_act(received);
        if self.rings.has_begun() {
            self.news.push(Client::DriverStarted);
        }
        match outcome {
            Ok(Outcome::Done) => self.acknowledge(code, need_reply, 0),
            Ok(Outcome::Failed) => self.acknowledge(code, need_reply, 1),
            Ok(Outcome::Reply(payload)) => self.socket.send(&reply(code, &payload)).map_err(End::Socket),
            Ok(Outcome::AtRest(ring)) => {
                self.waiting = Some(Waiting { code, ring, need_reply, until: Instant::now() + DRAIN });
                Ok(())
            }
            Err(refusal) => {
                self.acknowledge(code, need_reply, 1)?;
                Err(End::Refused(code, refusal))
            }
        }
    }

    fn acknowledge(&mut self, code: Code, need_reply: bool, status: u64) -> Result<(), End> {
        if !need_reply || code.replies() || self.protocol & protocol::REPLY_ACK == 0 {
            return Ok(());
        }
        self.socket.send(&reply(code, &status.to_le_bytes())).map_err(End::Socket)
    }

    fn judge_and_act(&mut self, received: Received) -> Result<Outcome, Refusal> {
        let Received { header, payload, descriptors } = received;
        let request = Request::parse(header.code, &payload, descriptors.len()).map_err(Refusal::Malformed)?;
        if header.code.needs() & !self.protocol != 0 {
            return Err(Refusal::NotNegotiated);
        }
        self.act(request, descriptors)
    }

    fn act(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> Result<Outcome, Refusal> {
        let mut descriptor = descriptors.into_iter();
        let number = |value: u64| Ok(Outcome::Reply(value.to_le_bytes().to_vec()));
        match request {
            Request::GetFeatures => return number(features::OFFERED),
            Request::GetProtocolFeatures => return number(protocol::OFFERED),
            Request::GetQueueNum => return number(self.device.queues.len() as u64),
            Request::GetMaxMemSlots => return number(MAX_REGIONS as u64),
            Request::GetConfig { offset, size, .. } => return Ok(Outcome::Reply(self.config(offset, size))),
            Request::GetVringBase { ring } => {
                return self.rings.stop(ring).map(|ring| Outcome::AtRest(Some(ring))).map_err(Refusal::Setup)
            }
            Request::ResetDevice | Request::ResetOwner => {
                self.rings.reset();
                return Ok(Outcome::AtRest(None));
            }
            Request::SetConfig => return Ok(Self::refuse_config()),
            Request::SetVringEnable { ring, enable } => return self.enable(ring, enable),
            // A connection has one owner anyway.
            Request::SetOwner => {}
            Request::SetFeatures(bits) => self.set_features(bits)?,
            Request::SetProtocolFeatures(bits) => {
                self.protocol = offered(bits, protocol::OFFERED)?;
            }
            Request::SetMemTable(regions) => {
                let mut memory = Memory::new();
                for (region, file) in regions.into_iter().zip(descriptor) {
                    memory = memory.with(region, &file).map_err(Refusal::Region)?;
                }
                self.remap(memory);
            }
            Request::AddMemReg(region) => self.add_region(region, descriptor.next())?,
            Request::RemMemReg(region) => {
                let memory = self.memory.without(&region).map_err(Refusal::Region)?;
                self.remap(memory);
            }
            Request::SetVringNum { ring, size } => self.rings.set_size(ring, size).map_err(Refusal::Setup)?,
            Request::SetVringAddr { ring, flags, descriptors, used, available } => {
                let addresses = Addresses { descriptors, available, used };
                self.rings.set_addresses(ring, flags, addresses, &self.memory).map_err(Refusal::Setup)?;
            }
            Request::SetVringBase { ring, base } => self.set_base(ring, base)?,
            Request::SetVringKick { ring } => {
                let kick = descriptor.next().ok_or(Refusal::Malformed(Malformed::Descriptors(0)))?;
                let kick = Kick::accept(kick, self.device.proc.as_fd()).map_err(Refusal::Descriptor)?;
                self.rings.start(ring, kick, &self.memory).map_err(Refusal::Setup)?;
            }
            Request::SetVringCall { ring } => {
                let call = self.call(descriptor.next())?;
                self.rings.set_call(ring, call).map_err(Refusal::Setup)?;
            }
            Request::SetVringErr { ring } => {
                let error = self.call(descriptor.next())?;
                self.rings.set_error(ring, error, &self.memory).map_err(Refusal::Setup)?;
            }
            Request::SetBackendReqFd => {
                let backend = descriptor.next().filter(socket::is_unix_stream).ok_or(Refusal::BackendSocket)?;
                self.backend = Some(backend);
            }
        }
        Ok(Outcome::Done)
    }

    fn enable(&mut self, ring: u32, enable: u32) -> Result<Outcome, Refusal> {
        let ring = self.rings.enable(ring, enable, &self.memory).map_err(Refusal::Setup)?;
        // A disabled ring must not be touched after the reply.
        Ok(if enable == 0 { Outcome::AtRest(Some(ring)) } else { Outcome::Done })
    }

    fn set_features(&mut self, bits: u64) -> Result<(), Refusal> {
        let bits = offered(bits, features::OFFERED)?;
        if bits != self.features {
            self.rings.set_features(bits, &self.memory).map_err(Refusal::Setup)?;
            self.features = bits;
        }
        Ok(())
    }

    /// A ring that was worked on and starts from nothing again, with no ring running: another driver has come without
    /// a reset of the device, and knows nothing of the old one's files.
    fn set_base(&mut self, ring: u32, base: u32) -> Result<(), Refusal> {
        if self.rings.set_base(ring, base).map_err(Refusal::Setup)? {
            self.device.server.reset();
            self.news.push(Client::DeviceReset);
        }
        Ok(())
    }

    fn add_region(&mut self, region: RegionDescription, file: Option<OwnedFd>) -> Result<(), Refusal> {
        let file = file.ok_or(Refusal::Malformed(Malformed::Descriptors(0)))?;
        let memory = self.memory.with(region, &file).map_err(Refusal::Region)?;
        self.remap(memory);
        Ok(())
    }

    /// Requests in flight finish on the old map, which goes when the last of them lets go of it.
    fn remap(&mut self, memory: Memory) {
        self.memory = Arc::new(memory);
        self.rings.replan(&self.memory);
    }

    fn call(&self, descriptor: Option<OwnedFd>) -> Result<Option<Call>, Refusal> {
        descriptor
            .map(|descriptor| Call::accept(descriptor, self.device.proc.as_fd()))
            .transpose()
            .map_err(Refusal::Descriptor)
    }

    /// The monitor's window on the configuration space, zeros beyond it. Offset, size and flags come first.
    fn config(&self, offset: u32, size: u32) -> Vec<u8> {
        let bytes = self.device.config_space.iter().copied().chain(std::iter::repeat(0));
        let past = (offset as usize).min(CONFIG_BYTES);
        let header = [offset, size, 0].into_iter().flat_map(u32::to_le_bytes);
        header.chain(bytes.skip(past).take(size as usize)).collect()
    }

    /// The file system has no writable field. A guest can provoke this through some monitors, so the session goes on.
    fn refuse_config() -> Outcome {
        static REFUSED: Limited = Limited::new();
        REFUSED.warning(format_args!("SET_CONFIG refused: the configuration space is read-only"));
        Outcome::Failed
    }

    /// Finishes what waits for rings, once they are at rest.
    fn settle(&mut self) -> Result<(), End> {
        let Some(waiting) = &self.waiting else { return Ok(()) };
        if !self.rings.at_rest(waiting.ring) {
            return if Instant::now() < waiting.until { Ok(()) } else { Err(End::NotDrained(waiting.code)) };
        }
        let (code, need_reply, ring) = (waiting.code, waiting.need_reply, waiting.ring);
        self.waiting = None;
        match (code, ring) {
            (Code::GetVringBase, Some(ring)) => {
                let state = [ring as u32, u32::from(self.rings.base(ring))];
                let payload: Vec<u8> = state.into_iter().flat_map(u32::to_le_bytes).collect();
                return self.socket.send(&reply(code, &payload)).map_err(End::Socket);
            }
            (_, None) => {
                self.device.server.reset();
                self.news.push(Client::DeviceReset);
            }
            _ => {}
        }
        self.acknowledge(code, need_reply, 0)
    }
}

impl AsFd for Session<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a message leads to.
enum Outcome {
    Done,
    Failed,
    Reply(Vec<u8>),
    /// Answered when this ring, or every ring, is at rest.
    AtRest(Option<usize>),
}

fn offered(bits: u64, offered: u64) -> Result<u64, Refusal> {
    match bits & !offered {
        0 => Ok(bits),
        unknown => Err(Refusal::Features(unknown)),
    }
}

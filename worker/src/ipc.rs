//! Messages between supervisor and worker, and the exit status (ipc/README.md, "Control messages").
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags,
};

pub const MESSAGE_BYTES: usize = 64;
pub const PROTOCOL_VERSION: u64 = 2;
const MAGIC: [u8; 4] = *b"VFS1";
const USED_BYTES: usize = 40;

/// Exit status of worker and keeper (ipc/README.md, "Exit status of a keeper").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Exit {
    ClientLeft = 0,
    Stopped = 10,
    Protocol = 11,
    MemoryGone = 12,
    NotDrained = 13,
    Configuration = 14,
    Descriptor = 15,
    SupervisorGone = 16,
    Internal = 17,
}

impl Exit {
    pub fn code(self) -> i32 {
        self as i32
    }

    /// Ends the process at once: other threads may sit in system calls that never return.
    pub fn now(self) -> ! {
        // syscall exit_group: the end of the process, whatever its threads do
        // SAFETY: takes an integer and does not come back; nothing relies on destructors.
        unsafe { libc::_exit(self.code()) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    Start = 1,
    Stop = 2,
    Settings = 3,
    Ready = 16,
    Client = 17,
    Leaving = 18,
    Applied = 19,
}

impl Kind {
    fn of(number: u16) -> Option<Self> {
        [Self::Start, Self::Stop, Self::Settings, Self::Ready, Self::Client, Self::Leaving, Self::Applied]
            .into_iter()
            .find(|kind| *kind as u16 == number)
    }
}

/// What a CLIENT message reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Client {
    DriverStarted = 1,
    Mounted = 2,
    Unmounted = 3,
    DeviceReset = 4,
}

/// One control message, without its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    pub generation: u32,
    pub code: u32,
    pub a: u64,
    pub b: u64,
    pub c: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    Length(usize),
    Magic,
    Kind(u16),
    Reserved,
    Generation(u32),
    Descriptors(usize),
    Unexpected(Kind),
    Socket(Errno),
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(bytes) => write!(f, "control message of {bytes} bytes instead of {MESSAGE_BYTES}"),
            Self::Magic => write!(f, "control message without its magic"),
            Self::Kind(number) => write!(f, "control message of unknown type {number}"),
            Self::Reserved => write!(f, "control message with reserved bytes set"),
            Self::Generation(number) => write!(f, "control message for generation {number}, which is not ours"),
            Self::Descriptors(count) => write!(f, "control message with {count} descriptors, not what its type takes"),
            Self::Unexpected(kind) => write!(f, "control message {kind:?} where it may not come"),
            Self::Socket(errno) => write!(f, "control socket: {errno}"),
        }
    }
}

impl std::error::Error for MessageError {}

impl Message {
    pub fn new(kind: Kind, generation: u32) -> Self {
        Self { kind, generation, code: 0, a: 0, b: 0, c: 0 }
    }

    pub fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let mut bytes = [0; MESSAGE_BYTES];
        let fields = MAGIC
            .into_iter()
            .chain((self.kind as u16).to_le_bytes())
            .chain(0u16.to_le_bytes())
            .chain(self.generation.to_le_bytes())
            .chain(self.code.to_le_bytes())
            .chain(self.a.to_le_bytes())
            .chain(self.b.to_le_bytes())
            .chain(self.c.to_le_bytes());
        for (slot, byte) in bytes.iter_mut().zip(fields) {
            *slot = byte;
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let message: &[u8; MESSAGE_BYTES] = bytes.try_into().map_err(|_| MessageError::Length(bytes.len()))?;
        let (fields, reserved) = message.split_at(USED_BYTES);
        if field::<4>(fields, 0) != MAGIC {
            return Err(MessageError::Magic);
        }
        if field::<2>(fields, 6) != [0; 2] || reserved.iter().any(|byte| *byte != 0) {
            return Err(MessageError::Reserved);
        }
        let number = u16::from_le_bytes(field(fields, 4));
        Ok(Self {
            kind: Kind::of(number).ok_or(MessageError::Kind(number))?,
            generation: u32::from_le_bytes(field(fields, 8)),
            code: u32::from_le_bytes(field(fields, 12)),
            a: u64::from_le_bytes(field(fields, 16)),
            b: u64::from_le_bytes(field(fields, 24)),
            c: u64::from_le_bytes(field(fields, 32)),
        })
    }
}

/// N bytes from *offset* on; zeros where *bytes* ends first.
fn field<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    for (slot, byte) in out.iter_mut().zip(bytes.iter().skip(offset)) {
        *slot = *byte;
    }
    out
}

/// What the supervisor wants.
#[derive(Debug)]
pub enum Order {
    Start { client: OwnedFd, pid: u64, uid: u64 },
    Stop { milliseconds: u64 },
    Settings { document: OwnedFd, serial: u64 },
}

/// What one look at the control socket brought.
#[derive(Debug)]
pub enum Incoming {
    Order(Order),
    Nothing,
    Closed,
}

/// The worker's end of the control socket.
pub struct ControlSocket {
    socket: OwnedFd,
    generation: u32,
    started: bool,
    stopped: bool,
}

impl ControlSocket {
    pub fn new(socket: OwnedFd, generation: u32) -> Self {
        GENERATION.store(generation, Ordering::Relaxed);
        Self { socket, generation, started: false, stopped: false }
    }

    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Takes the next message, if there is one.
    pub fn receive(&mut self) -> Result<Incoming, MessageError> {
        // One byte more than a message has: a longer one shows.
        let mut bytes = [0; MESSAGE_BYTES + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        // syscall recvmsg: the supervisor's orders
        let received = match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Incoming::Nothing),
            Err(Errno::CONNRESET) => return Ok(Incoming::Closed),
            Err(errno) => return Err(MessageError::Socket(errno)),
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Ok(Incoming::Closed);
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(MessageError::Descriptors(descriptors.len() + 1));
        }
        let message = Message::decode(bytes.get(..received.bytes).unwrap_or(&bytes))?;
        self.order(message, descriptors).map(Incoming::Order)
    }

    fn order(&mut self, message: Message, mut descriptors: Vec<OwnedFd>) -> Result<Order, MessageError> {
        if message.generation != self.generation {
            return Err(MessageError::Generation(message.generation));
        }
        let count = descriptors.len();
        match message.kind {
            Kind::Start if !self.started && !self.stopped => {
                let client = descriptors.pop().filter(|_| count == 1).ok_or(MessageError::Descriptors(count))?;
                self.started = true;
                LEAVING_DUE.store(true, Ordering::Relaxed);
                Ok(Order::Start { client, pid: message.a, uid: message.b })
            }
            Kind::Stop if !self.stopped => {
                if count != 0 {
                    return Err(MessageError::Descriptors(count));
                }
                self.stopped = true;
                Ok(Order::Stop { milliseconds: message.a })
            }
            Kind::Settings if !self.stopped => {
                let document = descriptors.pop().filter(|_| count == 1).ok_or(MessageError::Descriptors(count))?;
                Ok(Order::Settings { document, serial: message.a })
            }
            kind => Err(MessageError::Unexpected(kind)),
        }
    }

    /// Sends *message*; false if the supervisor has no room for it now.
    pub fn send(&self, message: &Message) -> Result<bool, MessageError> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let bytes = message.encode();
        // syscall sendmsg: reports to the supervisor
        match sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut SendAncillaryBuffer::default(), flags) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(errno) => Err(MessageError::Socket(errno)),
        }
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

// For the one sender that can hold no reference: the handler of SIGBUS.
static GENERATION: AtomicU32 = AtomicU32::new(0);
static LEAVING_DUE: AtomicBool = AtomicBool::new(false);

/// Announces the end of a started worker, once; without effect before START and the second time.
///
/// Async-signal-safe: called where guest memory has just vanished under any thread.
pub fn leave(exit: Exit, errno: i32) {
    if !LEAVING_DUE.swap(false, Ordering::Relaxed) {
        return;
    }
    let mut message = Message::new(Kind::Leaving, GENERATION.load(Ordering::Relaxed));
    message.code = exit as u32;
    message.a = u64::from(errno.unsigned_abs());
    let bytes = message.encode();
    // syscall sendto: LEAVING, also from the handler of SIGBUS
    // SAFETY: the buffer outlives the call; the number is the control socket's for the life of the process. A failure
    // means that nobody listens any more, and the exit status says the same.
    unsafe {
        libc::send(
            crate::inherited::CONTROL,
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
}

//! A monitor that speaks vhost-user byte by byte, as well or as badly as a test wants.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{eventfd, EventfdFlags};

use super::guest::{Guest, RING_SIZE};
use super::{receive, send};
use virtiofs_worker::session::message::{features, protocol, Code};

pub const NEED_REPLY: u32 = 8;

pub struct Monitor {
    pub socket: OwnedFd,
}

/// The event descriptors of a ring, on the monitor's side.
pub struct Events {
    pub kick: OwnedFd,
    pub call: OwnedFd,
    pub error: OwnedFd,
}

impl Events {
    pub fn new() -> Self {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Self { kick: event(), call: event(), error: event() }
    }
}

pub fn u32s(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn u64s(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl Monitor {
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// A whole message with its descriptors; false if the worker has hung up.
    pub fn send(&self, code: u32, flags: u32, payload: &[u8], descriptors: &[BorrowedFd<'_>]) -> bool {
        send(self.socket.as_fd(), &message(code, flags, payload), descriptors)
    }

    pub fn tell(&self, code: Code, payload: &[u8]) {
        assert!(self.send(code as u32, 1, payload, &[]));
    }

    /// Sends with NEED_REPLY and returns the status.
    pub fn demand(&self, code: Code, payload: &[u8], descriptors: &[BorrowedFd<'_>]) -> u64 {
        assert!(self.send(code as u32, 1 | NEED_REPLY, payload, descriptors));
        let reply = self.reply(code);
        u64::from_le_bytes(reply.try_into().expect("a status"))
    }

    pub fn ask(&self, code: Code, payload: &[u8]) -> Vec<u8> {
        self.tell(code, payload);
        self.reply(code)
    }

    pub fn ask_u64(&self, code: Code) -> u64 {
        u64::from_le_bytes(self.ask(code, &[]).try_into().expect("eight bytes"))
    }

    /// The payload of the reply to *code*.
    pub fn reply(&self, code: Code) -> Vec<u8> {
        let header = self.read(12);
        let field = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!((field(0), field(4)), (code as u32, 5), "header of a reply");
        self.read(field(8) as usize)
    }

    fn read(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let mut done = 0;
        while done < length {
            let part = receive(self.socket.as_fd(), &mut bytes[done..]).expect("a reply in time");
            assert!(part > 0, "the worker has hung up");
            done += part;
        }
        bytes
    }

    /// True once the worker has closed the connection; replies before that are passed over.
    pub fn is_hung_up(&self) -> bool {
        let mut bytes = [0; 256];
        loop {
            match receive(self.socket.as_fd(), &mut bytes) {
                Some(0) => return true,
                Some(_) => {}
                // A reset is a hang-up with unread bytes; a time-out is neither.
                None => return rustix::net::send(&self.socket, b"?", rustix::net::SendFlags::NOSIGNAL).is_err(),
            }
        }
    }

    /// As QEMU begins.
    pub fn negotiate(&self) {
        assert_eq!(self.ask_u64(Code::GetFeatures), features::OFFERED);
        let offered = self.ask_u64(Code::GetProtocolFeatures);
        self.tell(Code::SetProtocolFeatures, &u64s(&[offered]));
        assert_eq!(offered & protocol::REPLY_ACK, protocol::REPLY_ACK);
        self.tell(Code::SetOwner, &[]);
        self.tell(Code::SetFeatures, &u64s(&[features::OFFERED]));
    }

    pub fn add_memory(&self, guest: &Guest) {
        let region = u64s(&[0, guest.physical, guest.size, guest.user, guest.offset]);
        assert_eq!(self.demand(Code::AddMemReg, &region, &[guest.file.as_fd()]), 0);
    }

    /// Sets a ring up and starts it at *base*; it is not enabled yet.
    pub fn start_ring(&self, ring: u32, base: u32, guest: &Guest, events: &Events) {
        let event = |descriptor: &OwnedFd, code: Code| {
            assert_eq!(self.demand(code, &u64s(&[u64::from(ring)]), &[descriptor.as_fd()]), 0);
        };
        event(&events.call, Code::SetVringCall);
        event(&events.error, Code::SetVringErr);
        assert_eq!(self.demand(Code::SetVringNum, &u32s(&[ring, u32::from(RING_SIZE)]), &[]), 0);
        assert_eq!(self.demand(Code::SetVringBase, &u32s(&[ring, base]), &[]), 0);
        assert_eq!(self.demand(Code::SetVringAddr, &guest.addresses(ring), &[]), 0);
        event(&events.kick, Code::SetVringKick);
    }

    pub fn enable(&self, ring: u32, enable: bool) {
        assert_eq!(self.demand(Code::SetVringEnable, &u32s(&[ring, u32::from(enable)]), &[]), 0);
    }

    /// Everything up to a running request ring 1.
    pub fn set_up(&self, guest: &Guest) -> Events {
        let events = Events::new();
        self.negotiate();
        self.add_memory(guest);
        self.start_ring(1, 0, guest, &events);
        self.enable(1, true);
        events
    }

    pub fn vring_base(&self, ring: u32) -> u32 {
        let state = self.ask(Code::GetVringBase, &u32s(&[ring, 0]));
        u32::from_le_bytes(state[4..8].try_into().unwrap())
    }
}

pub fn message(code: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32s(&[code, flags, payload.len() as u32]);
    bytes.extend(payload);
    bytes
}

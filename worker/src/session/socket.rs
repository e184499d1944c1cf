//! The vhost-user socket: whole messages in, whole replies out, and never a wait.
//!
//! A monitor may stop in the middle of a message or read no replies: what has come so far is kept, and the control
//! thread goes back to its poll.
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{
    recvmsg, sendmsg, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendFlags, SocketType,
};

use super::message::{Header, Malformed, HEADER_BYTES, MAX_DESCRIPTORS};

/// A message as it came: its payload is not looked at yet.
#[derive(Debug)]
pub struct Received {
    pub header: Header,
    pub payload: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

#[derive(Debug)]
pub enum Step {
    Message(Received),
    /// The rest has not come yet.
    Wait,
    /// The monitor has closed its end, between two messages.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketError {
    Header(Malformed),
    /// The monitor went away inside a message.
    CutShort,
    TooManyDescriptors,
    Receive(Errno),
    Send(Errno),
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(malformed) => malformed.fmt(f),
            Self::CutShort => write!(f, "the monitor closed the connection inside a message"),
            Self::TooManyDescriptors => write!(f, "more than {MAX_DESCRIPTORS} descriptors with one message"),
            Self::Receive(errno) => write!(f, "recvmsg: {errno}"),
            Self::Send(errno) => write!(f, "sendmsg: {errno}"),
        }
    }
}

pub fn is_unix_stream(descriptor: &OwnedFd) -> bool {
    // syscall getsockopt: the kind of an inherited or received socket
    socket_domain(descriptor) == Ok(AddressFamily::UNIX) && socket_type(descriptor) == Ok(SocketType::STREAM)
}

pub struct Socket {
    stream: OwnedFd,
    header: Option<Header>,
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    unsent: Vec<u8>,
}

impl Socket {
    /// Takes the monitor's connection; `None` if it is no UNIX stream socket.
    pub fn new(stream: OwnedFd) -> Option<Self> {
        is_unix_stream(&stream).then(|| Self {
            stream,
            header: None,
            bytes: Vec::new(),
            descriptors: Vec::new(),
            unsent: Vec::new(),
        })
    }

    /// Reads on until a message is whole.
    pub fn receive(&mut self) -> Result<Step, SocketError> {
        loop {
            let missing = match self.header {
                None => HEADER_BYTES.saturating_sub(self.bytes.len()),
                Some(header) => header.payload.saturating_sub(self.bytes.len()),
            };
            if missing > 0 {
                match self.read(missing)? {
                    None => return Ok(Step::Wait),
                    Some(0) if self.header.is_none() && self.bytes.is_empty() => return Ok(Step::Closed),
                    Some(0) => return Err(SocketError::CutShort),
                    Some(_) => continue,
                }
            }
            if let Some(header) = self.header.take() {
                let payload = std::mem::take(&mut self.bytes);
                let descriptors = std::mem::take(&mut self.descriptors);
                return Ok(Step::Message(Received { header, payload, descriptors }));
            }
            let header = self.bytes.first_chunk::<HEADER_BYTES>().copied().unwrap_or_default();
            self.header = Some(Header::parse(header).map_err(SocketError::Header)?);
            self.bytes.clear();
        }
    }

    /// Reads at most *missing* bytes, so that the next message's descriptors stay with it.
    fn read(&mut self, missing: usize) -> Result<Option<usize>, SocketError> {
        let start = self.bytes.len();
        self.bytes.resize(start + missing, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let target = self.bytes.get_mut(start..).unwrap_or_default();
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        // syscall recvmsg: the monitor's messages, with descriptors
        let result = recvmsg(&self.stream, &mut [IoSliceMut::new(target)], &mut ancillary, flags);
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                self.descriptors.extend(rights);
            }
        }
        let count = result.as_ref().map_or(0, |received| received.bytes);
        self.bytes.truncate(start + count);
        match result {
            // The kernel has closed what did not fit.
            Ok(received) if received.flags.contains(ReturnFlags::CTRUNC) => Err(SocketError::TooManyDescriptors),
            Ok(_) if self.descriptors.len() > MAX_DESCRIPTORS => Err(SocketError::TooManyDescriptors),
            Ok(received) => Ok(Some(received.bytes)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            // A monitor that is killed with unread replies resets the connection: it has left.
            Err(Errno::CONNRESET) => Ok(Some(0)),
            Err(errno) => Err(SocketError::Receive(errno)),
        }
    }

    /// Queues *reply* and sends what the monitor has room for.
    pub fn send(&mut self, reply: &[u8]) -> Result<(), SocketError> {
        self.unsent.extend(reply);
        self.flush()
    }

    /// Sends what is left of earlier replies, as far as the monitor has room.
    pub fn flush(&mut self) -> Result<(), SocketError> {
        while !self.unsent.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            // syscall sendmsg: replies to the monitor
            match sendmsg(&self.stream, &[IoSlice::new(&self.unsent)], &mut SendAncillaryBuffer::default(), flags) {
                Ok(sent) => drop(self.unsent.drain(..sent.min(self.unsent.len()))),
                Err(Errno::AGAIN | Errno::INTR) => break,
                // Nobody reads replies any more: the next read says that the monitor has left.
                Err(Errno::PIPE | Errno::CONNRESET) => self.unsent.clear(),
                Err(errno) => return Err(SocketError::Send(errno)),
            }
        }
        Ok(())
    }

    /// True while a reply waits for room: no further request is read before it is out.
    pub fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

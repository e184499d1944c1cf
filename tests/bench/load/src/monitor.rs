//! The monitor's side of vhost-user, as little as a file system daemon needs to start serving.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;

const VERSION: u32 = 1;
const NEED_REPLY: u32 = 8;
const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28; // VERSION_1, PROTOCOL_FEATURES, EVENT_IDX, INDIRECT_DESC
const REPLY_ACK: u64 = 1 << 3;

/// Guest memory: a memfd, mapped here and, once the daemon has it, there. Guest addresses are offsets.
pub struct Memory {
    pub memfd: OwnedFd,
    pub base: *mut u8,
    pub bytes: usize,
}

impl Memory {
    pub fn new(bytes: usize) -> io::Result<Self> {
        // SAFETY: plain calls; the descriptor returned is ours alone.
        let memfd = unsafe { OwnedFd::from_raw_fd(checked(libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC))?) };
        // SAFETY: as above.
        checked(unsafe { libc::ftruncate(memfd.as_raw_fd(), bytes as i64) })?;
        // SAFETY: a fresh shared mapping of a descriptor that holds all of it.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                memfd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { memfd, base: base.cast(), bytes })
    }
}

/// Where the three parts of a vring are, as guest addresses, and its eventfds.
pub struct VringSetup<'a> {
    pub index: u32,
    pub size: u32,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub kick: &'a OwnedFd,
    pub call: &'a OwnedFd,
}

pub struct Monitor {
    socket: UnixStream,
}

impl Monitor {
    /// Connects and offers *memory*; the daemon's rings are set up by [`Self::start_vring`].
    pub fn connect(path: &Path, memory: &Memory) -> io::Result<Self> {
        let monitor = Self { socket: UnixStream::connect(path)? };
        monitor.ask(GET_FEATURES)?;
        monitor.ask(GET_PROTOCOL_FEATURES)?;
        monitor.send(SET_PROTOCOL_FEATURES, 0, &REPLY_ACK.to_le_bytes(), &[])?;
        monitor.tell(SET_OWNER, &[], &[])?;
        monitor.tell(SET_FEATURES, &FEATURES.to_le_bytes(), &[])?;
        let mut table = Vec::new();
        table.extend_from_slice(&1u32.to_le_bytes());
        table.extend_from_slice(&0u32.to_le_bytes());
        for field in [0, memory.bytes as u64, memory.base as u64, 0] {
            table.extend_from_slice(&field.to_le_bytes());
        }
        monitor.tell(SET_MEM_TABLE, &table, &[memory.memfd.as_raw_fd()])?;
        Ok(monitor)
    }

    pub fn start_vring(&self, memory: &Memory, ring: &VringSetup<'_>) -> io::Result<()> {
        let index = ring.index.to_le_bytes();
        let state = |value: u32| [index, value.to_le_bytes()].concat();
        self.tell(SET_VRING_CALL, &u64::from(ring.index).to_le_bytes(), &[ring.call.as_raw_fd()])?;
        self.tell(SET_VRING_NUM, &state(ring.size), &[])?;
        self.tell(SET_VRING_BASE, &state(0), &[])?;
        let mut address = state(0);
        let base = memory.base as u64;
        for field in [base + ring.descriptors, base + ring.used, base + ring.available, 0] {
            address.extend_from_slice(&field.to_le_bytes());
        }
        self.tell(SET_VRING_ADDR, &address, &[])?;
        self.tell(SET_VRING_KICK, &u64::from(ring.index).to_le_bytes(), &[ring.kick.as_raw_fd()])?;
        self.tell(SET_VRING_ENABLE, &state(1), &[])
    }

    /// Sends a message and waits until the daemon has carried it out.
    fn tell(&self, request: u32, payload: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        self.send(request, NEED_REPLY, payload, descriptors)?;
        match self.reply(request)? {
            0 => Ok(()),
            code => Err(io::Error::other(format!("vhost-user message {request} refused with {code}"))),
        }
    }

    fn ask(&self, request: u32) -> io::Result<u64> {
        self.send(request, 0, &[], &[])?;
        self.reply(request)
    }

    fn send(&self, request: u32, flags: u32, payload: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        let mut message = Vec::new();
        for word in [request, VERSION | flags, payload.len() as u32] {
            message.extend_from_slice(&word.to_le_bytes());
        }
        message.extend_from_slice(payload);
        let mut part = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() };
        let mut control = [0u64; 8];
        // SAFETY: all-zero is a valid msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        if !descriptors.is_empty() {
            let bytes = size_of_val(descriptors) as u32;
            header.msg_control = control.as_mut_ptr().cast();
            // SAFETY: control has room for one header and four descriptors, aligned as cmsghdr needs.
            unsafe {
                header.msg_controllen = libc::CMSG_SPACE(bytes) as usize;
                let cmsg = libc::CMSG_FIRSTHDR(&raw const header);
                (*cmsg).cmsg_level = libc::SOL_SOCKET;
                (*cmsg).cmsg_type = libc::SCM_RIGHTS;
                (*cmsg).cmsg_len = libc::CMSG_LEN(bytes) as usize;
                libc::CMSG_DATA(cmsg).copy_from_nonoverlapping(descriptors.as_ptr().cast(), bytes as usize);
            }
        }
        // SAFETY: header points at live buffers.
        let sent = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn reply(&self, request: u32) -> io::Result<u64> {
        let mut message = [0; 20];
        io::Read::read_exact(&mut &self.socket, &mut message)?;
        let word = |at: usize| u32::from_le_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
        if word(0) != request || word(8) != 8 {
            return Err(io::Error::other(format!("reply to message {request} is for {} ({} bytes)", word(0), word(8))));
        }
        Ok(u64::from(word(12)) | u64::from(word(16)) << 32)
    }
}

pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: a plain call; the descriptor returned is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(checked(libc::eventfd(0, libc::EFD_CLOEXEC))?) })
}

pub fn checked(result: i32) -> io::Result<i32> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

//! The file system behind the device. Stub: answers nothing but ENOSYS.

use std::os::fd::OwnedFd;

use crate::buffers::Buffers;
use crate::config::Config;
use crate::stats::Stats;

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// This many bytes of the reply buffers were written, header included.
    Reply(u32),
    /// The opcode has no reply (FORGET, BATCH_FORGET, DESTROY), or the request was too short to name whom to answer.
    Silent,
}

/// What the session tells the supervisor about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Mounted { minor: u32, flags: u64 },
    Unmounted,
}

/// One mounted file system: answers FUSE requests from any number of threads.
pub struct Server {
    _share: OwnedFd,
}

/// Per-thread state of a queue thread: scratch buffers, credentials in force.
pub struct ThreadState;

impl Server {
    /// *share* and *proc* are the detached mounts, *arena* the memfd of the tables (ipc/README.md).
    pub fn new(
        _config: &Config,
        share: OwnedFd,
        _proc: OwnedFd,
        _arena: OwnedFd,
        _stats: &'static Stats,
        _events: Box<dyn Fn(Event) + Send + Sync>,
    ) -> std::io::Result<Self> {
        Ok(Self { _share: share })
    }

    /// To be called once on each thread that serves.
    pub fn thread(&self) -> ThreadState {
        ThreadState
    }

    /// Answers one request: *request* is what the driver wrote, *reply* where it wants the answer.
    ///
    /// Never panics and never blocks for ever, whatever the bytes are (I5).
    pub fn serve(&self, _state: &mut ThreadState, request: &Buffers<'_>, reply: &Buffers<'_>) -> Served {
        let mut header = [0; 40];
        if request.read_at(0, &mut header) < 40 {
            return Served::Silent;
        }
        let mut answer = [0; 16];
        answer[0..4].copy_from_slice(&16u32.to_le_bytes());
        answer[4..8].copy_from_slice(&(-libc::ENOSYS).to_le_bytes());
        answer[8..16].copy_from_slice(&header[8..16]);
        Served::Reply(reply.write_at(0, &answer) as u32)
    }

    /// Forgets the session: inodes, handles, INIT. The device was reset, or a new driver starts over.
    pub fn reset(&self) {}
}

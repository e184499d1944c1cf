//! What the worker's tests stand on: the real binary on prepared descriptors, a byte-level monitor, a guest's memory.
#![allow(dead_code, clippy::unwrap_used, clippy::missing_panics_doc)]

pub mod guest;
pub mod monitor;

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{fcntl_add_seals, fcntl_setfl, ftruncate, memfd_create, MemfdFlags, OFlags, SealFlags, CWD};
use rustix::mount::{
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, open_tree, FsMountFlags, FsOpenFlags, MountAttrFlags,
    OpenTreeFlags,
};
use rustix::net::{
    recvmsg, sendmsg, socketpair, AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use monitor::Monitor;
use virtiofs_worker::ipc::{Kind, Message, MESSAGE_BYTES};
use virtiofs_worker::stats::Counter;

/// Nothing in these tests takes longer on a busy machine, unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(20);
pub const GENERATION: u32 = 7;

/// The descriptors of a worker, by their numbers; a test may replace or remove some.
pub struct Inheritance {
    pub share: PathBuf,
    pub descriptors: Vec<(RawFd, Option<OwnedFd>)>,
    control: OwnedFd,
    log: File,
    statistics: OwnedFd,
}

impl Inheritance {
    pub fn new(queues: u16) -> Self {
        let share = tempfile();
        let (control, theirs) = pair(SocketType::SEQPACKET);
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        fcntl_setfl(&write, OFlags::NONBLOCK).unwrap();
        let statistics = memfd(&[0; 4096], false);
        let tree = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let descriptors = [
            (2, write),
            (3, theirs),
            (4, memfd(document(queues).as_bytes(), true)),
            (5, statistics.try_clone().unwrap()),
            (6, memfd(&vec![0; 1 << 22], false)),
            (7, open_tree(CWD, &share, tree).unwrap()),
            (8, procfs()),
        ];
        let descriptors = descriptors.into_iter().map(|(number, fd)| (number, Some(fd))).collect();
        Self { share, descriptors, control, log: File::from(read), statistics }
    }

    /// Puts something else, or nothing, at *number*.
    pub fn replace(&mut self, number: RawFd, descriptor: Option<OwnedFd>) {
        self.descriptors.iter_mut().find(|(at, _)| *at == number).unwrap().1 = descriptor;
    }

    /// Takes the descriptor at *number* out.
    pub fn take(mut self, number: RawFd) -> OwnedFd {
        self.descriptors.iter_mut().find(|(at, _)| *at == number).unwrap().1.take().unwrap()
    }

    pub fn start(self) -> Worker {
        // Far above the fixed numbers, so that no dup2 hits a source that is still needed.
        let sources: Vec<(RawFd, Option<OwnedFd>)> = self
            .descriptors
            .into_iter()
            .map(|(number, fd)| (number, fd.map(|fd| rustix::io::fcntl_dupfd_cloexec(&fd, 100).unwrap())))
            .collect();
        let plan: Vec<(RawFd, Option<RawFd>)> =
            sources.iter().map(|(number, fd)| (*number, fd.as_ref().map(AsRawFd::as_raw_fd))).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtiofs-worker"));
        command.arg("test").env_clear().current_dir(&self.share);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: only dup2 and close between fork and exec.
        unsafe {
            command.pre_exec(move || {
                for (number, source) in &plan {
                    match source {
                        Some(source) => check(libc::dup2(*source, *number))?,
                        None => drop(libc::close(*number)),
                    }
                }
                Ok(())
            })
        };
        let child = command.spawn().unwrap();
        drop(sources);
        Worker { child, control: Some(self.control), log: self.log, statistics: self.statistics, share: self.share }
    }
}

fn check(result: libc::c_int) -> std::io::Result<()> {
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// A running worker, its keeper being our child.
pub struct Worker {
    child: Child,
    pub control: Option<OwnedFd>,
    log: File,
    statistics: OwnedFd,
    pub share: PathBuf,
}

impl Worker {
    /// A worker that has said READY.
    pub fn ready() -> Self {
        let worker = Inheritance::new(1).start();
        assert_eq!(worker.hear().kind, Kind::Ready);
        worker
    }

    /// A worker and the monitor it serves.
    pub fn serving() -> (Self, Monitor) {
        let worker = Self::ready();
        let monitor = worker.connect();
        (worker, monitor)
    }

    /// Hands over one end of a new vhost-user connection and returns the other.
    pub fn connect(&self) -> Monitor {
        let (ours, theirs) = pair(SocketType::STREAM);
        self.say(&Message::new(Kind::Start, GENERATION), &[theirs.as_fd()]);
        Monitor::new(ours)
    }

    pub fn say(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) {
        self.say_bytes(&message.encode(), descriptors);
    }

    pub fn say_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        send(self.control.as_ref().unwrap().as_fd(), bytes, descriptors);
    }

    /// The worker's next message.
    pub fn hear(&self) -> Message {
        let control = self.control.as_ref().unwrap();
        let mut bytes = [0; MESSAGE_BYTES + 1];
        let length = receive(control.as_fd(), &mut bytes).expect("a message in time");
        assert!(length > 0, "the worker has closed the control socket; log: {}", self.peek_log());
        Message::decode(&bytes[..length]).unwrap()
    }

    /// The next message of *kind*, others being passed over.
    pub fn hear_kind(&self, kind: Kind) -> Message {
        loop {
            let message = self.hear();
            if message.kind == kind {
                return message;
            }
        }
    }

    /// Whether a message of *kind* lies ready; those before it are taken.
    pub fn has_said_something_of(&self, kind: Kind) -> bool {
        let mut bytes = [0; MESSAGE_BYTES];
        let control = self.control.as_ref().unwrap();
        while rustix::net::recv(control, &mut bytes[..], RecvFlags::DONTWAIT).is_ok_and(|(length, _)| length > 0) {
            if Message::decode(&bytes).unwrap().kind == kind {
                return true;
            }
        }
        false
    }

    pub fn counter(&self, counter: Counter) -> u64 {
        self.word(counter as usize)
    }

    /// The number at *index* of the statistics page.
    pub fn word(&self, index: usize) -> u64 {
        let mut word = [0; 8];
        rustix::io::pread(&self.statistics, &mut word, 8 * index as u64).unwrap();
        u64::from_le_bytes(word)
    }

    pub fn keeper(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the keeper's end: its exit code and everything that was logged.
    pub fn end(mut self) -> (i32, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < LIMIT, "the worker hangs; log: {}", self.peek_log());
            std::thread::sleep(Duration::from_millis(2));
        };
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (status.code().expect("the keeper exits"), log)
    }

    fn peek_log(&self) -> String {
        fcntl_setfl(&self.log, OFlags::NONBLOCK).unwrap();
        let mut text = vec![0; 65536];
        let length = (&self.log).read(&mut text).unwrap_or(0);
        String::from_utf8_lossy(&text[..length]).into_owned()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.share);
    }
}

pub fn document(queues: u16) -> String {
    format!(
        r#"{{"version":2,"share":"test","generation":{GENERATION},"tag":"tag","readonly":false,"cache":"auto",
        "writeback":false,"xattr":false,"timeout_ms":null,"ids":"caller","unmapped":"forbid","attributes":"path","tree":false,
        "rules":{{"hide":[],"readonly":[],"allow":[],"case":"sensitive","strict_links":false}},"filters":null,"limits":null,
        "queues":{queues},"log_level":"info"}}"#
    )
}

/// A fresh directory in the one place that is writable under test.
fn tempfile() -> PathBuf {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("share-{}-{number}", std::process::id()));
    std::fs::create_dir(&path).unwrap();
    path
}

pub fn memfd(content: &[u8], frozen: bool) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, content.len() as u64).unwrap();
    rustix::io::pwrite(&fd, content, 0).unwrap();
    let write = if frozen { SealFlags::WRITE } else { SealFlags::empty() };
    fcntl_add_seals(&fd, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | write).unwrap();
    fd
}

pub fn procfs() -> OwnedFd {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(context.as_fd(), "subset", "pid").unwrap();
    fsconfig_create(context.as_fd()).unwrap();
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
}

/// Two connected sockets whose reads give up after [`LIMIT`].
pub fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    let (one, other) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    for socket in [&one, &other] {
        rustix::net::sockopt::set_socket_timeout(socket, rustix::net::sockopt::Timeout::Recv, Some(LIMIT)).unwrap();
    }
    (one, other)
}

/// Sends *bytes* with *descriptors*; false if the other end is closed.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> bool {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).is_ok()
}

/// Reads once into *bytes*; descriptors that come along are closed. `None` when nothing came in time or at a reset.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Option<usize> {
    let mut ancillary = RecvAncillaryBuffer::default();
    let received = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    received.ok().map(|received| received.bytes)
}

/// A copy of the descriptor that *inheritance* has at *number*.
pub fn clone(inheritance: &Inheritance, number: RawFd) -> OwnedFd {
    let found = inheritance.descriptors.iter().find(|(at, _)| *at == number).unwrap();
    found.1.as_ref().unwrap().try_clone().unwrap()
}

/// Reads and forgets what lies ready in *socket*.
pub fn drain(socket: &OwnedFd) {
    let mut bytes = [0; 4096];
    while rustix::net::recv(socket, &mut bytes[..], RecvFlags::DONTWAIT).is_ok_and(|(length, _)| length > 0) {}
}

/// The same numbers in every run (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below *limit*, or 0.
    pub fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as u32 % limit.max(1)
    }
}

//! The file system behind the device: answers FUSE requests with what the share holds.
//!
//! | module | owns |
//! | --- | --- |
//! | `host` | the system calls |
//! | `name`, `stat` | what a name may be; attributes and identity of a file |
//! | `inodes`, `handles` | the tables, kept in the arena |
//! | `descriptors` | the descriptor budget |
//! | `resolve` | from a node id to a checked descriptor |
//! | `session` | INIT and caching |
//! | `shape` | sizes of requests and replies, and what each is about to do |
//! | `law`, `judge` | the path rules in force, and every request judged by them |
//! | `credentials` | whom a new file belongs to |
//! | `lookup`, `open`, `data`, `directory`, … | the requests |
//!
//! Locks, in the order they may be taken: a directory stream, `renames`, `handles`, `inodes`. Only `renames` (shared
//! by lookups) and the stream of one handle are held during system calls; no lock is held while data moves.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

mod attributes;
mod create;
mod credentials;
mod data;
mod descriptors;
mod directory;
mod failure;
mod handles;
mod host;
mod inodes;
mod judge;
mod law;
mod lookup;
mod name;
mod open;
mod remove;
mod resolve;
mod session;
mod shape;
mod space;
mod stat;
mod xattr;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, RwLock};

use rustc_hash::FxHashSet;

use crate::buffers::Buffers;
use crate::config::{Attributes, Config, Ids, Unmapped};
use crate::fuse::abi::OUT_HEADER_BYTES;
use crate::fuse::request::Fields;
use crate::fuse::{reply, Encoder, Header, Malformed, Opcode};
use crate::journal::Arena;
use crate::limit::Limiter;
use crate::queue::inflight::monotonic;
use crate::rules::Rules;
use crate::stats::{Counter, Stats};
use credentials::Credentials;
use descriptors::{Budget, Descriptor};
use failure::{exclusive, refuse, Failure};
use handles::Handles;
use inodes::Inodes;
use law::{InForce, Law, TakenUp};
pub use session::MAX_WRITE;
use session::{Greeting, Most, Session};
use shape::{copy_body, is_xattr, least_reply, Deed};
use stat::Stat;

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// This many bytes of the reply buffers were written, header included.
    Reply(u32),
    /// The opcode has no reply (FORGET, BATCH_FORGET, INTERRUPT), or there is nobody or nowhere to answer.
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
    readonly: bool,
    xattr: bool,
    ids: Ids,
    unmapped: Unmapped,
    attribute_calls: Attributes,
    law: InForce,
    limiter: Limiter,
    root: Arc<Descriptor>,
    proc: OwnedFd,
    session: Session,
    budget: Arc<Budget>,
    inodes: Mutex<Inodes>,
    handles: RwLock<Handles>,
    /// Held exclusively from a rename's system call to its update of the table, and shared by whoever turns a name
    /// into a reference meanwhile.
    renames: RwLock<()>,
    xattr_calls: xattr::RelativeCalls,
    stats: &'static Stats,
    events: Box<dyn Fn(Event) + Send + Sync>,
}

/// Per-thread state of a queue thread: scratch buffers, credentials in force.
pub struct ThreadState {
    law: TakenUp,
    body: Vec<u8>,
    work: Work,
    opcode: Option<u32>,
}

impl ThreadState {
    /// Requests come from a ring of *entries* entries from now on.
    pub fn comes_from(&mut self, entries: u16) {
        self.work.ring = entries;
    }

    /// Bytes of files that the last request has moved.
    pub fn moved(&self) -> u64 {
        self.work.moved
    }

    /// What the last request was; `None` if it had no header.
    pub fn opcode(&self) -> Option<u32> {
        self.opcode
    }
}

/// What an operation may scribble on.
struct Work {
    out: Encoder,
    iovecs: data::Iovecs,
    values: xattr::Values,
    entries: directory::Entries,
    credentials: Credentials,
    /// Bytes of files that the request has moved.
    moved: u64,
    /// Entries of the ring that requests come from.
    ring: u16,
}

/// A request as its operation sees it: a private copy of the fixed part, and the guest's memory for bulk data.
struct Call<'c, 'm> {
    /// What it is judged by; `None` without rules.
    law: Option<&'c Law>,
    header: &'c Header,
    body: &'c [u8],
    request: &'c Buffers<'m>,
    reply: &'c Buffers<'m>,
}

/// Where an operation has put its reply.
enum Answer {
    /// In the encoder.
    Encoded,
    /// This many bytes are in the guest's memory already.
    InPlace(usize),
}

type Outcome = Result<Answer, Failure>;

impl<'c> Call<'c, '_> {
    fn fields(&self) -> Fields<'c> {
        Fields::new(self.body)
    }

    /// Room for a reply body.
    fn capacity(&self) -> usize {
        self.reply.len().saturating_sub(OUT_HEADER_BYTES)
    }
}

impl Server {
    /// *share* and *proc* are the detached mounts, *arena* the memfd of the tables (ipc/README.md).
    ///
    /// Clears the umask of the process. Fails when the share cannot be looked at or the arena is too small.
    #[allow(clippy::needless_pass_by_value)] // the mapping keeps the arena, its descriptor need not live on
    pub fn new(
        config: &Config,
        share: OwnedFd,
        proc: OwnedFd,
        arena: OwnedFd,
        stats: &'static Stats,
        events: Box<dyn Fn(Event) + Send + Sync>,
    ) -> std::io::Result<Self> {
        let arena = Arc::new(Arena::create(&arena)?);
        let root = Descriptor::uncounted(share);
        let stat =
            Stat::of_fd(root.as_fd()).map_err(|failure::Errno(number)| std::io::Error::from_raw_os_error(number))?;
        let rules = Rules::compile(&config.rules)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))?;
        host::clear_umask();
        Ok(Self {
            readonly: config.readonly,
            xattr: config.xattr,
            ids: config.ids,
            unmapped: config.unmapped,
            attribute_calls: config.attributes,
            law: InForce::new(rules, config.tree),
            limiter: Limiter::new(config.limits.clone(), monotonic(), stats),
            proc,
            session: Session::new(config),
            budget: Budget::new(host::descriptor_limit(), stats),
            inodes: Mutex::new(Inodes::new(Arc::clone(&arena), Arc::clone(&root), &stat, stats)),
            handles: RwLock::new(Handles::new(arena, stats)),
            renames: RwLock::new(()),
            xattr_calls: xattr::RelativeCalls::untried(config.attributes),
            root,
            stats,
            events,
        })
    }

    /// To be called once on each thread that serves.
    pub fn thread(&self) -> ThreadState {
        ThreadState {
            law: self.law.take_up(),
            body: Vec::with_capacity(4096),
            work: Work {
                out: Encoder::default(),
                iovecs: data::Iovecs::default(),
                values: xattr::Values::default(),
                entries: directory::Entries::default(),
                credentials: Credentials::of_this_thread(self.ids, self.unmapped),
                moved: 0,
                ring: 0,
            },
            opcode: None,
        }
    }

    /// Answers one request: *request* is what the driver wrote, *reply* where it wants the answer.
    ///
    /// Never panics and never blocks for ever, whatever the bytes are (I5).
    pub fn serve(&self, state: &mut ThreadState, request: &Buffers<'_>, reply: &Buffers<'_>) -> Served {
        let Some(header) = Header::read(request) else {
            self.stats.add(Counter::Malformed, 1);
            state.opcode = None;
            return Served::Silent;
        };
        self.serve_as(&header, state, request, reply)
    }

    /// As [`Self::serve`], by a header that was read before: the one in *request* may have become another.
    pub fn serve_as(
        &self,
        header: &Header,
        state: &mut ThreadState,
        request: &Buffers<'_>,
        reply: &Buffers<'_>,
    ) -> Served {
        let opcode = Opcode::from_number(header.opcode);
        let has_reply = !matches!(opcode, Some(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt));
        state.opcode = Some(header.opcode);
        state.work.out.clear();
        state.work.moved = 0;
        self.law.refresh(&mut state.law);
        let outcome = match copy_body(header, opcode, request, &mut state.body) {
            Err(malformed) => Err(malformed.into()),
            Ok(()) if has_reply && reply.len() < OUT_HEADER_BYTES + opcode.map_or(0, least_reply) => {
                Err(Malformed("no room for the reply").into())
            }
            Ok(()) => {
                let call = Call { law: state.law.law(), header, body: &state.body, request, reply };
                self.dispatch(opcode, &call, &mut state.work)
            }
        };
        if let Err(Failure::Malformed(_)) = outcome {
            self.stats.add(Counter::Malformed, 1);
        }
        let errno = outcome.as_ref().err().map_or(0, |failure| failure.errno());
        self.stats.request(header.opcode, errno);
        if !has_reply || reply.len() < OUT_HEADER_BYTES {
            return Served::Silent;
        }
        let body = match outcome {
            Ok(Answer::Encoded) => reply.write_at(OUT_HEADER_BYTES, state.work.out.as_bytes()),
            Ok(Answer::InPlace(bytes)) => bytes,
            Err(_) => 0,
        };
        reply.write_at(0, &reply::header(header.unique, errno, body));
        Served::Reply((OUT_HEADER_BYTES + body) as u32)
    }

    /// Forgets the session: inodes, handles, INIT. The device was reset, or a new driver starts over.
    pub fn reset(&self) {
        self.session.end();
        self.stats.set(Counter::Mounted, 0);
        let files = exclusive(&self.handles).reset();
        drop(files);
        if let Ok(stat) = Stat::of_fd(self.root.as_fd()) {
            self.inodes(|inodes| inodes.reset(Arc::clone(&self.root), &stat));
        }
    }

    /// What the share may ask of its worker in a second.
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Puts *rules* in force for every request that begins from now on; false when they are in force already.
    pub fn adopt(&self, rules: Rules) -> bool {
        self.law.replace(rules)
    }

    /// Closes handles and descriptors of what the rules hide; returns how many handles there were. To be called when
    /// every request has ended that began under older rules.
    pub fn revoke(&self) -> u64 {
        let taken = self.law.take_up();
        let Some(law) = taken.law() else { return 0 };
        let hidden: FxHashSet<u64> = self.inodes(|inodes| inodes.held_and_hidden(law)).into_iter().collect();
        let files = exclusive(&self.handles).remove_all_on(|node| hidden.contains(&node));
        for file in &files {
            self.inodes(|inodes| inodes.detach_open(file.node, file.fh));
        }
        for id in hidden {
            self.inodes(|inodes| inodes.let_go(id));
        }
        files.len() as u64
    }

    fn dispatch(&self, opcode: Option<Opcode>, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        if opcode == Some(Opcode::Init) {
            return self.init(call, work);
        }
        if !self.session.is_started() {
            return refuse(libc::EIO);
        }
        let Some(opcode) = opcode else { return refuse(libc::ENOSYS) };
        if !self.xattr && is_xattr(opcode) {
            return refuse(libc::ENOSYS);
        }
        let deed = Deed::of(opcode, call.body);
        if self.readonly && deed.is_change() {
            return refuse(libc::EROFS);
        }
        if let Some(law) = call.law {
            self.judge(law, deed, opcode, call)?;
        }
        match opcode {
            Opcode::Lookup => self.lookup(call, work),
            Opcode::Forget => self.forget(call),
            Opcode::BatchForget => self.forget_batch(call),
            Opcode::Getattr => self.getattr(call, work),
            Opcode::Setattr => self.setattr(call, work),
            Opcode::Readlink => self.readlink(call, work),
            Opcode::Access => self.access(call),
            Opcode::Statfs => self.statfs(call, work),
            Opcode::Symlink => self.symlink(call, work),
            Opcode::Mknod => self.mknod(call, work),
            Opcode::Mkdir => self.mkdir(call, work),
            Opcode::Link => self.link(call, work),
            Opcode::Create => self.create(call, work),
            Opcode::Unlink => self.unlink(call, false),
            Opcode::Rmdir => self.unlink(call, true),
            Opcode::Rename => self.rename(call, false),
            Opcode::Rename2 => self.rename(call, true),
            Opcode::Open => self.open(call, work),
            Opcode::Opendir => self.opendir(call, work),
            Opcode::Read => self.read(call, work),
            Opcode::Write => self.write(call, work),
            Opcode::Flush => self.flush(call),
            Opcode::Fsync | Opcode::Fsyncdir => self.fsync(call),
            Opcode::Release | Opcode::Releasedir => self.release(call),
            Opcode::Readdir => self.readdir(call, work, false),
            Opcode::Readdirplus => self.readdir(call, work, true),
            Opcode::Fallocate => self.fallocate(call),
            Opcode::Lseek => self.lseek(call, work),
            Opcode::CopyFileRange => self.copy_file_range(call, work),
            Opcode::Syncfs => self.syncfs(call),
            Opcode::Setxattr => self.setxattr(call),
            Opcode::Getxattr => self.getxattr(call, work),
            Opcode::Listxattr => self.listxattr(call, work),
            Opcode::Removexattr => self.removexattr(call),
            Opcode::Interrupt | Opcode::Init => Ok(Answer::Encoded),
            Opcode::Destroy => Ok(self.destroy()),
        }
    }

    fn init(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let most = Most::under(&self.limiter, work.ring);
        let greeting = self.session.greet(call.body, most, &mut work.out)?;
        if let Greeting::Mounted { minor, flags } = greeting {
            self.reset();
            self.session.start(flags);
            self.stats.set(Counter::Mounted, 1);
            (self.events)(Event::Mounted { minor, flags });
        }
        Ok(Answer::Encoded)
    }

    fn destroy(&self) -> Answer {
        self.reset();
        (self.events)(Event::Unmounted);
        Answer::Encoded
    }
}

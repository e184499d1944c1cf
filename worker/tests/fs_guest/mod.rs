//! A guest kernel in miniature: encodes FUSE requests, calls the server on plain memory and decodes the replies.
//!
//! The share is a detached mount of a fresh directory, as the launcher would hand it over.

#![allow(dead_code, clippy::missing_panics_doc)]

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use virtiofs_worker::buffers::Buffers;
use virtiofs_worker::config::{Attributes, CacheMode, Config, Ids, LogLevel, Rules, Unmapped};
use virtiofs_worker::fs::{Event, Served, Server, ThreadState};
use virtiofs_worker::fuse::Opcode;
use virtiofs_worker::journal::{Arena, Report};
use virtiofs_worker::stats::{Counter, Stats};

pub const ROOT: u64 = 1;
pub const ALL_FLAGS: u64 = u64::MAX;

pub fn config() -> Config {
    Config {
        version: 2,
        share: "test".into(),
        generation: 1,
        tag: "test".into(),
        readonly: false,
        cache: CacheMode::Auto,
        writeback: false,
        xattr: true,
        timeout_ms: None,
        ids: Ids::Caller,
        unmapped: Unmapped::Forbid,
        attributes: Attributes::Path,
        tree: false,
        rules: Rules::default(),
        filters: None,
        limits: None,
        queues: 1,
        log_level: LogLevel::Error,
    }
}

/// Rules that hide and freeze, and the configuration with them.
pub fn rules(hide: &[&str], readonly: &[&str]) -> Rules {
    let list = |patterns: &[&str]| patterns.iter().map(|&pattern| pattern.to_owned()).collect();
    Rules { hide: list(hide), readonly: list(readonly), ..Rules::default() }
}

pub fn ruled(rules: Rules) -> Config {
    Config { rules, ..config() }
}

/// A directory that is removed when the test is over.
pub struct Scratch {
    pub path: PathBuf,
    is_ours: bool,
}

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("share-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("scratch directory");
        Self { path, is_ours: true }
    }

    fn borrowed(other: &Self) -> Self {
        Self { path: other.path.clone(), is_ours: false }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Mounts *tree* on *path*, in the private mount namespace that tests run in.
pub fn attach(tree: &OwnedFd, path: &Path) {
    let path = CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: both paths are NUL-terminated.
    let result = unsafe {
        let (from, empty) = (tree.as_raw_fd(), c"".as_ptr());
        libc::syscall(libc::SYS_move_mount, from, empty, libc::AT_FDCWD, path.as_ptr(), libc::MOVE_MOUNT_F_EMPTY_PATH)
    };
    assert_eq!(result, 0, "move_mount: {}", std::io::Error::last_os_error());
}

/// A file system that tells no birth times and has no file handles.
pub fn mount_ramfs(path: &Path) {
    let path = CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: the strings are NUL-terminated.
    let result = unsafe { libc::mount(c"none".as_ptr(), path.as_ptr(), c"ramfs".as_ptr(), 0, std::ptr::null()) };
    assert_eq!(result, 0, "mount: {}", std::io::Error::last_os_error());
}

/// Takes away what was mounted.
pub fn detach(path: &Path) {
    let path = CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: the path is NUL-terminated.
    let result = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    assert_eq!(result, 0, "umount2: {}", std::io::Error::last_os_error());
}

fn owned(fd: i64, call: &str) -> OwnedFd {
    assert!(fd >= 0, "{call}: {}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor from the kernel that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

pub fn open_tree(path: &Path) -> OwnedFd {
    let path = CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as u32;
    // SAFETY: the path is NUL-terminated.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    owned(fd, "open_tree")
}

pub fn open_path(path: &str) -> OwnedFd {
    let path = CString::new(path).expect("no NUL");
    // SAFETY: the path is NUL-terminated.
    owned(i64::from(unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) }), "open")
}

pub fn memfd(bytes: u64) -> OwnedFd {
    // SAFETY: the name is NUL-terminated.
    let fd = owned(i64::from(unsafe { libc::memfd_create(c"arena".as_ptr(), libc::MFD_CLOEXEC) }), "memfd_create");
    File::from(fd.as_fd().try_clone_to_owned().expect("dup")).set_len(bytes).expect("set_len");
    fd
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub ino: u64,
    pub size: u64,
    pub mtime: u64,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub flags: u32,
}

impl Attr {
    fn at(reply: &[u8], offset: usize) -> Self {
        Self {
            ino: u64_at(reply, offset),
            size: u64_at(reply, offset + 8),
            mtime: u64_at(reply, offset + 32),
            mode: u32_at(reply, offset + 60),
            nlink: u32_at(reply, offset + 64),
            uid: u32_at(reply, offset + 68),
            gid: u32_at(reply, offset + 72),
            rdev: u32_at(reply, offset + 76),
            flags: u32_at(reply, offset + 84),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub node: u64,
    pub valid: u64,
    pub attr: Attr,
}

impl Entry {
    pub fn at(reply: &[u8], offset: usize) -> Self {
        let valid = u64_at(reply, offset + 16);
        Self { node: u64_at(reply, offset), valid, attr: Attr::at(reply, offset + 40) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirent {
    pub node: u64,
    pub ino: u64,
    pub offset: u64,
    pub kind: u32,
    pub name: Vec<u8>,
}

pub fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("4 bytes"))
}

pub fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("8 bytes"))
}

/// Request bodies, field by field.
#[derive(Clone, Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn bytes(mut self, value: &[u8]) -> Self {
        self.0.extend(value);
        self
    }

    pub fn name(self, name: impl AsRef<[u8]>) -> Self {
        self.bytes(name.as_ref()).bytes(&[0])
    }

    pub fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }
}

pub fn body() -> Body {
    Body::default()
}

pub type Reply = Result<Vec<u8>, i32>;

/// A server on a fresh share.
pub struct World {
    pub share: Scratch,
    pub server: Arc<Server>,
    pub stats: &'static Stats,
    pub arena: OwnedFd,
    pub events: Arc<Mutex<Vec<Event>>>,
}

/// One queue thread's view of it.
pub struct Guest {
    pub server: Arc<Server>,
    pub stats: &'static Stats,
    pub state: ThreadState,
    pub uid: u32,
    pub gid: u32,
}

impl World {
    pub fn new() -> (Self, Guest) {
        Self::with(&config())
    }

    /// A mounted share: INIT is done.
    pub fn with(config: &Config) -> (Self, Guest) {
        let (world, mut guest) = Self::unmounted(config, 1 << 20);
        guest.init(ALL_FLAGS).expect("INIT");
        (world, guest)
    }

    pub fn unmounted(config: &Config, arena_bytes: u64) -> (Self, Guest) {
        Self::serving(Scratch::new(), config, arena_bytes)
    }

    /// A second server on a share that another world keeps.
    pub fn over(share: &Scratch, config: &Config) -> (Self, Guest) {
        Self::serving(Scratch::borrowed(share), config, 1 << 20)
    }

    fn serving(share: Scratch, config: &Config, arena_bytes: u64) -> (Self, Guest) {
        let stats: &'static Stats = Box::leak(Box::new(Stats::private()));
        let events = Arc::new(Mutex::new(Vec::new()));
        let arena = memfd(arena_bytes);
        let sink = Arc::clone(&events);
        let server = Server::new(
            config,
            open_tree(&share.path),
            open_path("/proc"),
            arena.try_clone().expect("dup"),
            stats,
            Box::new(move |event| sink.lock().expect("events").push(event)),
        );
        let server = Arc::new(server.expect("server"));
        let world = Self { share, server, stats, arena, events };
        let guest = world.guest();
        (world, guest)
    }

    /// One more queue thread.
    pub fn guest(&self) -> Guest {
        let server = Arc::clone(&self.server);
        Guest { state: server.thread(), server, stats: self.stats, uid: 0, gid: 0 }
    }

    /// Puts other rules in force, as SETTINGS does; returns the number of handles revoked.
    pub fn adopt(&self, rules: &Rules) -> u64 {
        self.server.adopt(virtiofs_worker::rules::Rules::compile(rules).expect("patterns"));
        self.server.revoke()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.share.path.join(name)
    }

    pub fn write(&self, name: impl AsRef<Path>, content: &str) {
        fs::write(self.path(name), content).expect("write");
    }

    pub fn mkdir(&self, name: impl AsRef<Path>) {
        fs::create_dir(self.path(name)).expect("mkdir");
    }

    /// What another process finds in the arena.
    pub fn verify(&self) -> Report {
        Arena::adopt(&self.arena).expect("arena").verify()
    }

    /// (inodes, handles, descriptors) as the counters have them.
    pub fn holdings(&self) -> (u64, u64, u64) {
        (self.stats.get(Counter::Inodes), self.stats.get(Counter::Handles), self.stats.get(Counter::Descriptors))
    }

    /// Lets birth times grow old enough to be proof.
    pub fn age() {
        std::thread::sleep(std::time::Duration::from_millis(40));
    }
}

impl Guest {
    /// Sends exact request bytes with *room* for the reply.
    pub fn raw(&mut self, mut request: Vec<u8>, room: usize) -> (Served, Vec<u8>) {
        let mut reply = vec![0xaa; room];
        let served = self.server.serve(&mut self.state, &Buffers::of(&mut request), &Buffers::of(&mut reply));
        (served, reply)
    }

    pub fn request(&self, opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let mut request = Vec::new();
        request.extend((40 + body.len() as u32).to_le_bytes());
        request.extend(opcode.to_le_bytes());
        request.extend(77u64.to_le_bytes());
        request.extend(node.to_le_bytes());
        request.extend(self.uid.to_le_bytes());
        request.extend(self.gid.to_le_bytes());
        request.extend([0; 8]);
        request.extend(body);
        request
    }

    /// Sends a request and returns the reply's body, or its errno. Checks the reply's header.
    pub fn call(&mut self, opcode: Opcode, node: u64, body: &Body, room: usize) -> Reply {
        let request = self.request(opcode as u32, node, &body.0);
        let (served, reply) = self.raw(request, 16 + room);
        let Served::Reply(length) = served else { panic!("{opcode:?} got no reply") };
        assert_eq!(u32_at(&reply, 0), length, "{opcode:?}: length in the header");
        assert_eq!(u64_at(&reply, 8), 77, "{opcode:?}: unique");
        match u32_at(&reply, 4) as i32 {
            0 => Ok(reply[16..length as usize].to_vec()),
            errno => {
                assert_eq!(length, 16, "{opcode:?}: an error has no body");
                Err(-errno)
            }
        }
    }

    pub fn init(&mut self, flags: u64) -> Reply {
        let body = body().u32(7).u32(38).u32(1 << 17).u32(flags as u32).u32((flags >> 32) as u32).zeros(44);
        self.call(Opcode::Init, 0, &body, 64)
    }

    pub fn lookup(&mut self, parent: u64, name: impl AsRef<[u8]>) -> Result<Entry, i32> {
        let reply = self.call(Opcode::Lookup, parent, &body().name(name), 128)?;
        Ok(Entry::at(&reply, 0))
    }

    /// Looks a path up, keeping one count on every component.
    pub fn walk(&mut self, path: &str) -> Result<Entry, i32> {
        let mut node = ROOT;
        let mut entry = Err(libc::ENOENT);
        for name in path.split('/') {
            entry = self.lookup(node, name);
            node = entry?.node;
        }
        entry
    }

    pub fn forget(&mut self, node: u64, count: u64) {
        let request = self.request(Opcode::Forget as u32, node, &body().u64(count).0);
        assert_eq!(self.raw(request, 0).0, Served::Silent);
    }

    pub fn getattr(&mut self, node: u64) -> Result<Attr, i32> {
        let reply = self.call(Opcode::Getattr, node, &body().zeros(16), 104)?;
        Ok(Attr::at(&reply, 16))
    }

    pub fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        let reply = self.call(Opcode::Open, node, &body().u32(flags as u32).u32(0), 16)?;
        Ok(u64_at(&reply, 0))
    }

    pub fn opendir(&mut self, node: u64) -> Result<u64, i32> {
        let reply = self.call(Opcode::Opendir, node, &body().zeros(8), 16)?;
        Ok(u64_at(&reply, 0))
    }

    pub fn release(&mut self, node: u64, fh: u64) -> Result<(), i32> {
        self.call(Opcode::Release, node, &body().u64(fh).zeros(16), 0).map(drop)
    }

    pub fn read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Reply {
        self.call(Opcode::Read, node, &body().u64(fh).u64(offset).u32(size).zeros(20), size as usize)
    }

    pub fn write(&mut self, node: u64, fh: u64, offset: u64, data: &[u8]) -> Result<u32, i32> {
        self.write_with(node, fh, offset, data, 0, 0)
    }

    pub fn write_with(
        &mut self,
        node: u64,
        fh: u64,
        offset: u64,
        data: &[u8],
        write_flags: u32,
        open_flags: i32,
    ) -> Result<u32, i32> {
        let body = body().u64(fh).u64(offset).u32(data.len() as u32).u32(write_flags).u64(0);
        let body = body.u32(open_flags as u32).u32(0).bytes(data);
        Ok(u32_at(&self.call(Opcode::Write, node, &body, 8)?, 0))
    }

    pub fn readdir(&mut self, node: u64, fh: u64, offset: u64, size: u32, plus: bool) -> Result<Vec<Dirent>, i32> {
        let opcode = if plus { Opcode::Readdirplus } else { Opcode::Readdir };
        let body = body().u64(fh).u64(offset).u32(size).zeros(20);
        let reply = self.call(opcode, node, &body, size as usize)?;
        let (mut entries, mut at) = (Vec::new(), 0);
        while at < reply.len() {
            let node = if plus { Entry::at(&reply, at).node } else { 0 };
            at += if plus { 128 } else { 0 };
            let length = u32_at(&reply, at + 16) as usize;
            entries.push(Dirent {
                node,
                ino: u64_at(&reply, at),
                offset: u64_at(&reply, at + 8),
                kind: u32_at(&reply, at + 20),
                name: reply[at + 24..at + 24 + length].to_vec(),
            });
            at += (24 + length).next_multiple_of(8);
        }
        Ok(entries)
    }

    /// Reads a whole directory in replies of *size* bytes: names with what each entry said.
    pub fn list(&mut self, node: u64, size: u32, plus: bool) -> HashMap<Vec<u8>, Dirent> {
        let fh = self.opendir(node).expect("OPENDIR");
        let (mut all, mut offset) = (HashMap::new(), 0);
        loop {
            let entries = self.readdir(node, fh, offset, size, plus).expect("READDIR");
            let Some(last) = entries.last() else { break };
            offset = last.offset;
            for entry in entries {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                assert!(all.insert(entry.name.clone(), entry).is_none(), "{name} was listed twice");
            }
        }
        self.call(Opcode::Releasedir, node, &body().u64(fh).zeros(16), 0).expect("RELEASEDIR");
        all
    }

    pub fn create(&mut self, parent: u64, name: &str, flags: i32, mode: u32) -> Result<(Entry, u64), i32> {
        let body = body().u32(flags as u32).u32(mode).zeros(8).name(name);
        let reply = self.call(Opcode::Create, parent, &body, 144)?;
        Ok((Entry::at(&reply, 0), u64_at(&reply, 128)))
    }

    pub fn mkdir(&mut self, parent: u64, name: &str, mode: u32) -> Result<Entry, i32> {
        let reply = self.call(Opcode::Mkdir, parent, &body().u32(mode).u32(0).name(name), 128)?;
        Ok(Entry::at(&reply, 0))
    }

    pub fn mknod(&mut self, parent: u64, name: &str, mode: u32, device: u32) -> Result<Entry, i32> {
        let reply = self.call(Opcode::Mknod, parent, &body().u32(mode).u32(device).zeros(8).name(name), 128)?;
        Ok(Entry::at(&reply, 0))
    }

    pub fn symlink(&mut self, parent: u64, name: &str, target: &str) -> Result<Entry, i32> {
        let reply = self.call(Opcode::Symlink, parent, &body().name(name).name(target), 128)?;
        Ok(Entry::at(&reply, 0))
    }

    pub fn link(&mut self, node: u64, parent: u64, name: &str) -> Result<Entry, i32> {
        let reply = self.call(Opcode::Link, parent, &body().u64(node).name(name), 128)?;
        Ok(Entry::at(&reply, 0))
    }

    pub fn unlink(&mut self, parent: u64, name: &str) -> Result<(), i32> {
        self.call(Opcode::Unlink, parent, &body().name(name), 0).map(drop)
    }

    pub fn rmdir(&mut self, parent: u64, name: &str) -> Result<(), i32> {
        self.call(Opcode::Rmdir, parent, &body().name(name), 0).map(drop)
    }

    pub fn rename(&mut self, parent: u64, old: &str, target: u64, new: &str) -> Result<(), i32> {
        self.call(Opcode::Rename, parent, &body().u64(target).name(old).name(new), 0).map(drop)
    }

    pub fn rename2(&mut self, parent: u64, old: &str, target: u64, new: &str, flags: u32) -> Result<(), i32> {
        let body = body().u64(target).u32(flags).u32(0).name(old).name(new);
        self.call(Opcode::Rename2, parent, &body, 0).map(drop)
    }

    pub fn setattr(&mut self, node: u64, change: &Setattr) -> Result<Attr, i32> {
        let reply = self.call(Opcode::Setattr, node, &change.body(), 104)?;
        Ok(Attr::at(&reply, 16))
    }
}

/// The fields of SETATTR; `valid` says which count.
#[derive(Clone, Copy, Default)]
pub struct Setattr {
    pub valid: u32,
    pub fh: u64,
    pub size: u64,
    pub atime: u64,
    pub mtime: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Setattr {
    pub fn body(&self) -> Body {
        let body = body().u32(self.valid).u32(0).u64(self.fh).u64(self.size).u64(0);
        let body = body.u64(self.atime).u64(self.mtime).zeros(8 + 12);
        body.u32(self.mode).u32(0).u32(self.uid).u32(self.gid).u32(0)
    }
}

/// What the launcher sets in a jail: capabilities stay in force when the file system ids change.
pub fn keep_capabilities() {
    const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    // SAFETY: no memory is passed.
    let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// All that a frozen file must keep: mode, owner, size, times of change, link count, content or target, attributes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Picture {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub ctime: (i64, i64),
    pub links: u64,
    pub content: Vec<u8>,
    pub attributes: Vec<(CString, Vec<u8>)>,
}

impl Picture {
    pub fn of(path: &Path) -> Self {
        let stat = fs::symlink_metadata(path).expect("stat");
        let content = match stat.mode() & libc::S_IFMT {
            libc::S_IFREG => fs::read(path).expect("read"),
            libc::S_IFLNK => fs::read_link(path).expect("link").as_os_str().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        Self {
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            mtime: (stat.mtime(), stat.mtime_nsec()),
            ctime: (stat.ctime(), stat.ctime_nsec()),
            links: stat.nlink(),
            content,
            attributes: attributes(path),
        }
    }

    /// Of *path* and everything below it, by path.
    pub fn of_all(path: &Path) -> BTreeMap<PathBuf, Self> {
        let (mut found, mut open) = (BTreeMap::new(), vec![path.to_path_buf()]);
        while let Some(path) = open.pop() {
            let picture = Self::of(&path);
            if picture.mode & libc::S_IFMT == libc::S_IFDIR {
                open.extend(fs::read_dir(&path).expect("list").map(|entry| entry.expect("entry").path()));
            }
            found.insert(path, picture);
        }
        found
    }
}

fn attributes(path: &Path) -> Vec<(CString, Vec<u8>)> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let mut names = [0u8; 4096];
    // SAFETY: the path is NUL-terminated, the buffer has the length passed.
    let length = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let names = &names[..usize::try_from(length).unwrap_or(0)];
    let value = |name: CString| {
        let mut value = [0u8; 4096];
        // SAFETY: both strings are NUL-terminated, the buffer has the length passed.
        let length = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        (name, value[..usize::try_from(length).unwrap_or(0)].to_vec())
    };
    let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names.map(|name| value(CString::new(name).expect("no NUL"))).collect()
}

//! From a node id to a descriptor: what is held, or what the reference leads to once its identity was checked.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::descriptors::{Descriptor, Slot};
use super::failure::{lock, refuse, shared, Errno, Failure};
use super::host::{self, FileHandle};
use super::inodes::Inodes;
use super::stat::Stat;
use super::Server;
use crate::config::Attributes;
use crate::journal::NodeRecord;

impl Server {
    /// Works on the inode table; descriptors that fall out of it are closed after the lock is gone.
    pub(super) fn inodes<T>(&self, work: impl FnOnce(&mut Inodes) -> T) -> T {
        let mut inodes = lock(&self.inodes);
        let result = work(&mut inodes);
        let closing = inodes.take_closing();
        drop(inodes);
        drop(closing);
        result
    }

    /// A place for one more descriptor, made by closing the oldest if need be. ENFILE when none can be closed.
    pub(super) fn slot(&self) -> Result<Slot, Errno> {
        loop {
            if let Some(slot) = self.budget.take() {
                return Ok(slot);
            }
            if !self.inodes(Inodes::evict) {
                return Err(Errno(libc::ENFILE));
            }
        }
    }

    /// Tries *attempt*, and once more with our own renames held off when a reference did not lead where it should.
    /// ESTALE after that: the host has moved or replaced the file.
    pub(super) fn settled<T>(&self, attempt: impl Fn() -> Result<T, Errno>) -> Result<T, Failure> {
        let again = match attempt() {
            Err(errno) if errno.is_stale_path() => {
                let _renames_wait = shared(&self.renames);
                attempt()
            }
            other => other,
        };
        match again {
            Err(errno) if errno.is_stale_path() => refuse(libc::ESTALE),
            other => Ok(other?),
        }
    }

    /// A descriptor of the node, `O_PATH` or better.
    pub(super) fn descriptor(&self, id: u64) -> Result<Arc<Descriptor>, Failure> {
        if let Some(descriptor) = self.inodes(|inodes| inodes.descriptor(id)) {
            return Ok(descriptor);
        }
        self.settled(|| self.reach(id))
    }

    /// Climbs to the nearest ancestor with a descriptor and comes down again, one checked step at a time. Holds two
    /// descriptors at any moment; those on the way are kept only while there is plenty of room.
    pub(super) fn reach(&self, id: u64) -> Result<Arc<Descriptor>, Errno> {
        let mut below = Vec::new();
        let mut current = self.inodes(|inodes| {
            let mut climbing = id;
            loop {
                if let Some(descriptor) = inodes.descriptor(climbing) {
                    return Ok(descriptor);
                }
                let node = inodes.get(climbing)?;
                // References that form a ring are longer than there are nodes.
                if node.parent == 0 || below.len() > inodes.live() {
                    return Err(Errno(libc::ESTALE));
                }
                below.push(climbing);
                climbing = node.parent;
            }
        })?;
        while let Some(next) = below.pop() {
            let slot = self.slot()?;
            let opened = slot.fill(self.open_reference(&current, next, libc::O_PATH)?);
            current = if below.is_empty() || self.budget.has_room() {
                self.inodes(|inodes| inodes.keep_path(next, &opened))
            } else {
                opened
            };
        }
        Ok(current)
    }

    /// Opens the node below its parent by its name, and checks that it is the node.
    fn open_reference(&self, parent: &Descriptor, id: u64, flags: i32) -> Result<OwnedFd, Errno> {
        let (node, (name, handle)) = self.inodes(|inodes| {
            let node = inodes.get(id)?;
            Ok((node, inodes.reference(&node)?))
        })?;
        let fd = host::open_below(parent.as_fd(), name.as_c_str(), flags, 0)?;
        self.recognise(&node, &handle, &Stat::of_fd(fd.as_fd())?, || host::file_handle(fd.as_fd(), c""))?;
        Ok(fd)
    }

    /// Compares what was found with what the node is. A node that needed its handle for this, and has become old
    /// enough to do without, is known by its birth time from now on.
    fn recognise(
        &self,
        node: &NodeRecord,
        handle: &[u8],
        stat: &Stat,
        ask: impl FnOnce() -> Result<FileHandle, Errno>,
    ) -> Result<(), Errno> {
        if stat.identity != node.identity {
            return Err(Errno(libc::ESTALE));
        }
        if !handle.is_empty() {
            if ask()?.as_bytes() != handle {
                return Err(Errno(libc::ESTALE));
            }
            if stat.is_proven() {
                // Where the arena has no room for the change, the handle stays and is asked for again.
                let _ = self.inodes(|inodes| inodes.get(node.id).and_then(|node| inodes.trust(node)));
            }
        }
        Ok(())
    }

    /// The node and its attributes: those of its descriptor, or by one look at its name.
    pub(super) fn stat(&self, id: u64) -> Result<(NodeRecord, Stat), Failure> {
        self.settled(|| {
            let (node, held) = self.inodes(|inodes| Ok((inodes.get(id)?, inodes.descriptor(id))))?;
            let stat = match held {
                Some(descriptor) => Stat::of_fd(descriptor.as_fd()),
                None => self.stat_reference(&node),
            };
            Ok((node, stat?))
        })
    }

    fn stat_reference(&self, node: &NodeRecord) -> Result<Stat, Errno> {
        let parent = self.reach(node.parent)?;
        let (name, handle) = self.inodes(|inodes| inodes.reference(node))?;
        let stat = Stat::of_name(parent.as_fd(), name.as_c_str())?;
        self.recognise(node, &handle, &stat, || host::file_handle(parent.as_fd(), name.as_c_str()))?;
        Ok(stat)
    }

    /// Opens the node for data. Only regular files and directories can be: ENXIO for the others, before anything is
    /// opened. *flags* hold an access mode and at most `O_DIRECTORY`, `O_SYNC` and `O_DSYNC`.
    pub(super) fn open_node(&self, id: u64, flags: i32) -> Result<Arc<Descriptor>, Failure> {
        if self.readonly && self.attribute_calls == Attributes::Open {
            // No read-only mount keeps access times where they are. Only owners may ask for that here.
            match self.open_checked(id, flags | libc::O_NOATIME) {
                Err(Failure::Errno(Errno(libc::EPERM))) => {}
                other => return other,
            }
        }
        self.open_checked(id, flags)
    }

    fn open_checked(&self, id: u64, flags: i32) -> Result<Arc<Descriptor>, Failure> {
        let node = self.inodes(|inodes| inodes.get(id))?;
        if !matches!(node.kind, libc::S_IFREG | libc::S_IFDIR) {
            return refuse(libc::ENXIO);
        }
        let slot = self.slot()?;
        let fd = self.settled(|| {
            let (node, held) = self.inodes(|inodes| Ok((inodes.get(id)?, inodes.descriptor(id))))?;
            if let Some(descriptor) = held {
                return host::reopen(self.proc.as_fd(), descriptor.as_fd(), flags);
            }
            // What lies there may have been replaced: a FIFO must not block, a terminal not become ours.
            let careful = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
            match self.open_reference(&*self.reach(node.parent)?, id, careful) {
                // A lease is being broken: wait for that, on the file that is known to be the right one.
                Err(Errno(libc::EAGAIN)) => host::reopen(self.proc.as_fd(), self.reach(id)?.as_fd(), flags),
                other => other,
            }
        })?;
        Ok(slot.fill(fd))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    use super::super::inodes::{Directory, Witness};
    use super::*;
    use crate::config::Config;
    use crate::fuse::abi::ROOT_ID;
    use crate::stats::Stats;

    fn open_path(path: &Path) -> OwnedFd {
        File::options().read(true).custom_flags(libc::O_PATH).open(path).expect("open").into()
    }

    fn server(share: &Path) -> Server {
        let config = Config::parse(
            br#"{"version": 2, "share": "s", "generation": 1, "tag": "t", "readonly": false, "cache": "auto",
                 "writeback": false, "xattr": false, "timeout_ms": null, "ids": "caller", "unmapped": "forbid",
                 "attributes": "path", "tree": false, "filters": null, "limits": null, "queues": 1, "log_level": "error",
                 "rules": {"hide": [], "readonly": [], "allow": [], "case": "sensitive", "strict_links": false}}"#,
        );
        let arena = File::options().read(true).write(true).create_new(true).open(share.join("arena")).expect("arena");
        arena.set_len(1 << 20).expect("set_len");
        let stats = Box::leak(Box::new(Stats::private()));
        let (share, proc) = (open_path(share), open_path(Path::new("/proc")));
        Server::new(&config.expect("config"), share, proc, arena.into(), stats, Box::new(|_| ())).expect("server")
    }

    /// Number and birth time repeat where birth times tick slowly, which no test can bring about on every kernel:
    /// the node is given a handle as if it had been another file.
    #[test]
    fn a_file_with_another_handle_is_another_file_though_number_and_birth_time_agree() {
        let share = std::env::temp_dir().join(format!("resolve-{}", std::process::id()));
        std::fs::create_dir(&share).expect("mkdir");
        std::fs::write(share.join("file"), "successor").expect("write");
        let server = server(&share);
        let root = server.descriptor(ROOT_ID).expect("root");
        let directory = Directory { id: ROOT_ID, descriptor: &root };
        let stat = Stat::of_name(root.as_fd(), c"file").expect("stat");
        let gone = Witness::Handle(b"predecessor".to_vec());
        let gone = server.inodes(|inodes| inodes.insert(directory, b"file", &stat, gone)).expect("insert");
        let stale = Some(Failure::Errno(Errno(libc::ESTALE)));
        assert_eq!(server.stat(gone.id).err(), stale);
        assert_eq!(server.open_node(gone.id, libc::O_RDWR).err(), stale);
        assert_eq!(server.descriptor(gone.id).err(), stale);
        let found = server.enter(None, directory, c"file").expect("enter");
        assert_ne!(found.id, gone.id);
        assert!(server.open_node(found.id, libc::O_RDWR).is_ok());
        std::fs::remove_dir_all(&share).expect("remove");
    }
}

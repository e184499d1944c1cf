//! What a record says: nodes and handles as plain data, and their places in the payload words.

use super::names::Place;

/// What makes a file the same file: mount, device, inode number and birth time.
///
/// The mount is part of it, since one file seen through a read-write and a read-only mount is judged differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    pub mount: u64,
    pub device: u64,
    pub ino: u64,
    /// Seconds and nanoseconds; both 0 where the file system tells none.
    pub birth: (i64, u32),
}

/// Why a node's descriptor must not be closed to make room.
pub mod flags {
    /// The name in the record no longer leads to the node: unlinked, or replaced by a rename.
    pub const UNLINKED: u8 = 1;
    /// The identity alone does not tell the node from a successor, and the file system has no file handles.
    pub const UNPROVEN: u8 = 1 << 1;
    /// The share's root.
    pub const ROOT: u8 = 1 << 2;
    /// The root of another mount inside the share, which the guest makes a mount of its own.
    pub const SUBMOUNT: u8 = 1 << 3;
    /// The name block carries a file handle, which is part of the identity.
    pub const HAS_HANDLE: u8 = 1 << 4;

    pub const PINNED: u8 = UNLINKED | UNPROVEN | ROOT;
}

/// A referenced inode: how to find it, how to know it, and who counts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    pub id: u64,
    pub identity: Identity,
    /// File type bits, as in `st_mode`.
    pub kind: u32,
    pub flags: u8,
    /// Node id of the directory that the name is in; 0 when the node has none.
    pub parent: u64,
    pub name: Place,
    /// References the guest holds.
    pub lookups: u64,
    /// Nodes whose parent this is.
    pub children: u32,
    /// `O_PATH` descriptor, -1 for none.
    pub descriptor: i32,
}

impl NodeRecord {
    pub fn encode(&self) -> [u64; 12] {
        let (location, class) = self.name.parts();
        [
            1 | u64::from(self.flags) << 8 | u64::from(class) << 16 | u64::from(self.kind) << 32,
            self.identity.mount,
            self.identity.device,
            self.identity.ino,
            self.identity.birth.0 as u64,
            u64::from(self.identity.birth.1) | u64::from(location) << 32,
            self.parent,
            self.lookups,
            u64::from(self.children) | u64::from(self.descriptor as u32) << 32,
            0,
            0,
            0,
        ]
    }

    pub fn decode(id: u64, words: &[u64; 12]) -> Self {
        let [head, mount, device, ino, birth, birth_name, parent, lookups, counts, _, _, _] = *words;
        Self {
            id,
            identity: Identity { mount, device, ino, birth: (birth as i64, birth_name as u32) },
            kind: (head >> 32) as u32,
            flags: (head >> 8) as u8,
            parent,
            name: Place::from_parts((birth_name >> 32) as u32, (head >> 16) as u8),
            lookups,
            children: counts as u32,
            descriptor: (counts >> 32) as i32,
        }
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// An open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleRecord {
    pub fh: u64,
    pub node: u64,
    pub directory: bool,
    /// `O_ACCMODE`, `O_SYNC` and `O_DSYNC` as the host descriptor has them.
    pub open_flags: i32,
    pub descriptor: i32,
}

impl HandleRecord {
    pub fn encode(&self) -> [u64; 4] {
        [
            1 | u64::from(self.directory) << 8,
            self.node,
            u64::from(self.open_flags as u32) | u64::from(self.descriptor as u32) << 32,
            0,
        ]
    }

    pub fn decode(fh: u64, words: &[u64; 4]) -> Self {
        let [head, node, numbers, _] = *words;
        Self {
            fh,
            node,
            directory: head & 0x100 != 0,
            open_flags: numbers as u32 as i32,
            descriptor: (numbers >> 32) as i32,
        }
    }
}

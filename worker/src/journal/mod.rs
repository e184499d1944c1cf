//! The inode and handle tables as they outlive the worker: one arena without pointers in a shared memfd.
//!
//! ```text
//! page 0            header: magic, layout, sizes, high-water marks
//! nodes             one 128-byte record per node index, index 0 unused
//! handles           one 64-byte record per handle index, index 0 unused
//! names             blocks of 32-byte units: the name of a node and, where its identity needs one, a file handle
//! ```
//!
//! Everything is little-endian 64-bit words at fixed places, so that another process can read what this one wrote.
//! A record carries a version, a checksum and a commit word that is stored last: whoever reads after a crash finds
//! each record whole or torn, never half new unnoticed. Counts are stored as absolute values.
//! What only serves speed (the identity index, free lists, locks, open descriptors) lives beside the arena and can be
//! rebuilt by [`Arena::verify`]'s walk.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

mod memory;
mod names;
mod records;
mod table;

pub use memory::{Arena, Layout};
pub use names::{NameHeap, Place, StoredName};
pub use records::{flags, HandleRecord, Identity, NodeRecord};
pub use table::{Table, Verdict};

/// What a walk over an arena found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub nodes: usize,
    pub handles: usize,
    /// Node indices whose record was not completely written, or whose name block is not theirs.
    pub torn_nodes: Vec<u32>,
    pub torn_handles: Vec<u32>,
}

impl Arena {
    /// Walks every record up to the high-water marks and judges it by commit word, checksum and name block.
    pub fn verify(&self) -> Report {
        let (nodes, handles, names) = (self.nodes(), self.handles(), NameHeap::over(self));
        let mut report = Report::default();
        for index in 1..nodes.high_water(self) {
            match nodes.check(self, index) {
                Verdict::Free => {}
                Verdict::Intact(id, payload) => {
                    let node = NodeRecord::decode(id, &payload);
                    if node.name.is_none() || names.read(self, node.name, id).is_some() {
                        report.nodes += 1;
                    } else {
                        report.torn_nodes.push(index);
                    }
                }
                Verdict::Torn => report.torn_nodes.push(index),
            }
        }
        for index in 1..handles.high_water(self) {
            match handles.check(self, index) {
                Verdict::Free => {}
                Verdict::Intact(..) => report.handles += 1,
                Verdict::Torn => report.torn_handles.push(index),
            }
        }
        report
    }
}

#[cfg(test)]
mod tests;

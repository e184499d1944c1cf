//! The FUSE wire format as virtio-fs carries it: little-endian structures, no file system semantics.
//!
//! Layouts and numbers are those of `include/uapi/linux/fuse.h`, protocol 7.27 to 7.4x.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

pub mod abi;
pub mod reply;
pub mod request;

pub use abi::Opcode;
pub use reply::Encoder;
pub use request::{Header, Malformed};

//! The jailed half of virtiofs-sandbox: a vhost-user file system device that sees one share and nothing else.

pub mod buffers;
pub mod config;
pub mod fs;
pub mod stats;

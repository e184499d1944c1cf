//! The jailed half of virtiofs-sandbox: a vhost-user file system device that sees one share and nothing else.
//!
//! `keeper` starts, `inherited` checks the descriptors, `confine` tightens the worker, `control` runs its main thread
//! and takes over new `settings`.
//! `session` speaks vhost-user with the monitor, `memory` maps what it sends, `queue` turns rings into requests for `fs`.
//! `limit` says when each may run, `fs` answers them under the `rules` of the share, `fuse` is their wire format, `journal` the arena that holds its tables.

pub mod buffers;
pub mod config;
pub mod confine;
pub mod control;
pub mod fs;
pub mod fuse;
pub mod inherited;
pub mod ipc;
pub mod journal;
pub mod keeper;
pub mod limit;
pub mod log;
pub mod memory;
pub mod notify;
pub mod queue;
pub mod rules;
pub mod session;
pub mod settings;
pub mod stats;

//! The configuration document: one JSON object in a sealed memfd (ipc/README.md, "Configuration document").

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::fstat;
use rustix::io::{pread, Errno};
use serde::{Deserialize, Deserializer};

use crate::rules::{self, PatternError};

pub const VERSION: u32 = 2;
pub const MAX_BYTES: u64 = 256 * 1024;
pub const MAX_TAG_BYTES: usize = 36;
pub const MAX_QUEUES: u16 = 8;
/// A tebibyte a second.
pub const MAX_RATE: u64 = 1 << 40;
pub const MAX_BURST_MS: u32 = 60_000;
pub const MAX_DELAY_MS: u32 = 86_400_000;

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    Never,
    Auto,
    Metadata,
    Always,
}

/// Who owns what the guest creates.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    /// The uid and gid in the request.
    Caller,
    /// The worker's own: its user namespace maps a single id.
    #[serde(rename = "self")]
    Own,
}

/// What a caller gets whose id has no mapping.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Unmapped {
    /// EPERM for whatever it creates.
    Forbid,
    /// What it creates belongs to the worker's own ids.
    Squash,
}

/// How mode, owner, times and extended attributes are changed.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Attributes {
    /// By calls that take a path or an O_PATH descriptor.
    Path,
    /// Only through descriptors opened for data, which Landlock has judged: the jail has no mounts of its own.
    Open,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Case {
    #[default]
    Sensitive,
    Insensitive,
}

/// Which names of the share the guest sees and which it may change: patterns as docs/policies.md defines them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    pub hide: Vec<String>,
    pub readonly: Vec<String>,
    pub allow: Vec<String>,
    pub case: Case,
    pub strict_links: bool,
}

/// Most that a share may ask of its worker: bytes and operations a second, by class (docs/limits.md).
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(deserialize_with = "present")]
    pub read: Option<u64>,
    #[serde(deserialize_with = "present")]
    pub write: Option<u64>,
    #[serde(deserialize_with = "present")]
    pub read_ops: Option<u64>,
    #[serde(deserialize_with = "present")]
    pub write_ops: Option<u64>,
    #[serde(deserialize_with = "present")]
    pub metadata_ops: Option<u64>,
    /// How long each rate may be saved up for.
    pub burst_ms: u32,
    /// A longer wait is told of.
    pub max_delay_ms: u32,
}

impl Limits {
    fn check(&self) -> Result<(), ConfigError> {
        let rates = [self.read, self.write, self.read_ops, self.write_ops, self.metadata_ops];
        if rates.into_iter().flatten().any(|rate| rate == 0 || rate > MAX_RATE) {
            return Err(ConfigError::Limit("a rate", MAX_RATE));
        }
        if self.burst_ms == 0 || self.burst_ms > MAX_BURST_MS {
            return Err(ConfigError::Limit("burst_ms", MAX_BURST_MS.into()));
        }
        if self.max_delay_ms == 0 || self.max_delay_ms > MAX_DELAY_MS {
            return Err(ConfigError::Limit("max_delay_ms", MAX_DELAY_MS.into()));
        }
        Ok(())
    }
}

/// The second, tighter seccomp program of each role: one little-endian u64 per `struct sock_filter`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Filters {
    pub keeper: Vec<u64>,
    pub control: Vec<u64>,
    pub queue: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warning,
    Info,
    Debug,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools)] // independent settings, each named in the document
pub struct Config {
    pub version: u32,
    pub share: String,
    pub generation: u32,
    pub tag: String,
    pub readonly: bool,
    pub cache: CacheMode,
    pub writeback: bool,
    pub xattr: bool,
    /// How long the guest may cache names and attributes, in milliseconds; by cache mode if there is none.
    #[serde(deserialize_with = "present")]
    pub timeout_ms: Option<u32>,
    pub ids: Ids,
    pub unmapped: Unmapped,
    pub attributes: Attributes,
    /// The root only holds the mounts of a tree share and takes no changes.
    pub tree: bool,
    pub rules: Rules,
    #[serde(deserialize_with = "present")]
    pub filters: Option<Filters>,
    #[serde(deserialize_with = "present")]
    pub limits: Option<Limits>,
    pub queues: u16,
    pub log_level: LogLevel,
}

/// A field that may be null but must be there: without this, serde takes a missing one for null.
fn present<'d, D: Deserializer<'d>, T: Deserialize<'d>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// What a running worker takes over, all of it each time (ipc/README.md, "Live settings").
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct LiveSettings {
    pub rules: Rules,
    #[serde(deserialize_with = "present")]
    pub limits: Option<Limits>,
    pub log_level: LogLevel,
}

#[derive(Debug)]
pub enum ConfigError {
    Read(io::Error),
    TooLong(u64),
    Parse(serde_json::Error),
    Version(u32),
    Tag(usize),
    Queues(u16),
    Limit(&'static str, u64),
    Pattern(PatternError),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "configuration cannot be read: {error}"),
            Self::TooLong(bytes) => write!(f, "configuration has {bytes} bytes, at most {MAX_BYTES} are read"),
            Self::Parse(error) => write!(f, "configuration: {error}"),
            Self::Version(version) => write!(f, "configuration: version {version}, this worker knows {VERSION}"),
            Self::Tag(bytes) => write!(f, "configuration: tag has {bytes} bytes, 1 to {MAX_TAG_BYTES} fit"),
            Self::Queues(queues) => write!(f, "configuration: {queues} queues, 1 to {MAX_QUEUES} are possible"),
            Self::Limit(what, most) => {
                write!(f, "configuration: limits: {what} is out of range, 1 to {most} is possible")
            }
            Self::Pattern(error) => write!(f, "configuration: {error}"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Parses and checks a document.
    pub fn parse(document: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_slice(document).map_err(ConfigError::Parse)?;
        if config.version != VERSION {
            return Err(ConfigError::Version(config.version));
        }
        if config.tag.is_empty() || config.tag.len() > MAX_TAG_BYTES {
            return Err(ConfigError::Tag(config.tag.len()));
        }
        if config.queues == 0 || config.queues > MAX_QUEUES {
            return Err(ConfigError::Queues(config.queues));
        }
        config.limits.as_ref().map_or(Ok(()), Limits::check)?;
        rules::Rules::compile(&config.rules).map_err(ConfigError::Pattern)?;
        Ok(config)
    }

    /// Reads the document behind *memfd*, from its start.
    pub fn read(memfd: BorrowedFd<'_>) -> Result<Self, ConfigError> {
        Self::parse(&document(memfd)?)
    }
}

impl LiveSettings {
    /// Parses and checks a document; its patterns come compiled.
    pub fn parse(document: &[u8]) -> Result<(Self, rules::Rules), ConfigError> {
        let settings: Self = serde_json::from_slice(document).map_err(ConfigError::Parse)?;
        settings.limits.as_ref().map_or(Ok(()), Limits::check)?;
        let rules = rules::Rules::compile(&settings.rules).map_err(ConfigError::Pattern)?;
        Ok((settings, rules))
    }

    /// Reads the document behind *memfd*, from its start.
    pub fn read(memfd: BorrowedFd<'_>) -> Result<(Self, rules::Rules), ConfigError> {
        Self::parse(&document(memfd)?)
    }
}

fn document(memfd: BorrowedFd<'_>) -> Result<Vec<u8>, ConfigError> {
    let read = |errno: Errno| ConfigError::Read(errno.into());
    // syscall fstat: length of the configuration document and of live settings
    let length = fstat(memfd).map_err(read)?.st_size as u64;
    if length > MAX_BYTES {
        return Err(ConfigError::TooLong(length));
    }
    let mut document = vec![0; length as usize];
    let mut filled = 0;
    while let Some(rest) = document.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // syscall pread64: the configuration document, live settings
        match pread(memfd, rest, filled as u64) {
            Ok(0) => return Err(ConfigError::Read(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(read(errno)),
        }
    }
    Ok(document)
}

//! The configuration document: one JSON object in a sealed memfd (ipc/README.md, "Configuration document").

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use serde::Deserialize;

pub const VERSION: u32 = 1;
pub const MAX_BYTES: u64 = 64 * 1024;
pub const MAX_TAG_BYTES: usize = 36;
pub const MAX_QUEUES: u16 = 8;

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
pub struct Config {
    pub version: u32,
    pub share: String,
    pub generation: u32,
    pub tag: String,
    pub readonly: bool,
    pub cache: CacheMode,
    pub writeback: bool,
    pub xattr: bool,
    pub ids: Ids,
    pub queues: u16,
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
        Ok(config)
    }

    /// Reads the document behind *memfd*, from its start.
    pub fn read(memfd: BorrowedFd<'_>) -> Result<Self, ConfigError> {
        let file = File::from(memfd.try_clone_to_owned().map_err(ConfigError::Read)?);
        let length = file.metadata().map_err(ConfigError::Read)?.len();
        if length > MAX_BYTES {
            return Err(ConfigError::TooLong(length));
        }
        let mut document = vec![0; length as usize];
        // syscall pread64: the configuration document
        file.read_exact_at(&mut document, 0).map_err(ConfigError::Read)?;
        Self::parse(&document)
    }
}

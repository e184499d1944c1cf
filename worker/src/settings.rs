//! SETTINGS: live settings taken over, and APPLIED once no request is left that was judged by older ones.
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::config::{ConfigError, LiveSettings};
use crate::inherited::is_frozen;
use crate::ipc::{Kind, Message};
use crate::log;
use crate::queue::inflight::monotonic;
use crate::rules::Rules;
use crate::session::Device;

/// SETTINGS that wait their turn, and those that are in force but not settled.
#[derive(Default)]
pub struct Settings {
    waiting: VecDeque<(u64, OwnedFd)>,
    settling: Option<u64>,
}

/// Why settings are not taken over.
enum Refused {
    Unsealed,
    Document(ConfigError),
    Leaving,
}

impl Refused {
    fn errno(&self) -> i32 {
        match self {
            Self::Unsealed => libc::EPERM,
            Self::Document(ConfigError::Read(error)) => error.raw_os_error().unwrap_or(libc::EIO),
            Self::Document(ConfigError::TooLong(_)) => libc::EFBIG,
            Self::Document(_) => libc::EINVAL,
            Self::Leaving => libc::ESHUTDOWN,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsealed => write!(f, "they are not in a memfd sealed against everything"),
            Self::Document(error) => error.fmt(f),
            Self::Leaving => write!(f, "the worker is leaving"),
        }
    }
}

impl Settings {
    pub fn push(&mut self, serial: u64, document: OwnedFd) {
        self.waiting.push_back((serial, document));
    }

    /// Goes on as far as it can without waiting; the ring threads wake the control thread when they have passed by.
    /// Returns an APPLIED for each SETTINGS that is done with.
    pub fn advance(&mut self, device: &Device, generation: u32) -> Vec<Message> {
        let mut done = Vec::new();
        loop {
            if let Some(serial) = self.settling {
                if device.queues.iter().any(|queue| queue.settled().is_none()) {
                    return done;
                }
                self.settling = None;
                done.push(applied(generation, serial, 0, device.server.revoke()));
            }
            let Some((serial, document)) = self.waiting.pop_front() else { return done };
            match read(document.as_fd()) {
                Err(refused) => done.push(refuse(generation, serial, &refused)),
                Ok((settings, rules)) => {
                    log::set_level(settings.log_level);
                    let limited = device.server.limiter().replace(settings.limits, monotonic());
                    let judged = device.server.adopt(rules);
                    if judged || limited {
                        device.queues.iter().for_each(crate::queue::Queue::call_by);
                    }
                    if judged {
                        self.settling = Some(serial);
                    } else {
                        // Limits hold from the next request on; those in flight were let in and are paid for.
                        done.push(applied(generation, serial, 0, 0));
                    }
                }
            }
        }
    }

    /// Refuses what still waits: the worker is at its end.
    pub fn refuse(&mut self, generation: u32) -> Vec<Message> {
        self.waiting.drain(..).map(|(serial, _)| refuse(generation, serial, &Refused::Leaving)).collect()
    }
}

fn read(document: BorrowedFd<'_>) -> Result<(LiveSettings, Rules), Refused> {
    if !is_frozen(document).unwrap_or(false) {
        return Err(Refused::Unsealed);
    }
    LiveSettings::read(document).map_err(Refused::Document)
}

fn refuse(generation: u32, serial: u64, refused: &Refused) -> Message {
    log::error(format_args!("live settings {serial} refused, the old ones hold: {refused}"));
    applied(generation, serial, refused.errno(), 0)
}

fn applied(generation: u32, serial: u64, errno: i32, revoked: u64) -> Message {
    let mut message = Message::new(Kind::Applied, generation);
    (message.code, message.a, message.b) = (errno.unsigned_abs(), serial, revoked);
    message
}

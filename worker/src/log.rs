//! Log lines for the supervisor: `<N>text\n` on descriptor 2, one write each, never waiting (ipc/README.md).

use std::fmt::{self, Write};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};
use std::sync::OnceLock;
use std::time::Instant;

use crate::config::LogLevel;
use crate::stats::{Counter, Stats};

/// Longest line, its level and its end included: below `PIPE_BUF`, so that lines of several threads never mix.
pub const MAX_LINE_BYTES: usize = 512;

static LEVEL: AtomicU8 = AtomicU8::new(syslog(LogLevel::Info));
static STATS: OnceLock<&'static Stats> = OnceLock::new();

/// Sets what is written and where dropped lines are counted. Before this call: info, uncounted.
pub fn configure(level: LogLevel, stats: &'static Stats) {
    set_level(level);
    // A second call keeps the first page: there is one per process.
    let _ = STATS.set(stats);
}

/// Sets what is written from now on.
pub fn set_level(level: LogLevel) {
    LEVEL.store(syslog(level), Ordering::Relaxed);
}

pub fn error(text: fmt::Arguments<'_>) {
    line(LogLevel::Error, text);
}

pub fn warning(text: fmt::Arguments<'_>) {
    line(LogLevel::Warning, text);
}

pub fn debug(text: fmt::Arguments<'_>) {
    line(LogLevel::Debug, text);
}

/// One kind of line that a guest or monitor can provoke at will: at most one a second gets through.
pub struct Limited {
    last: AtomicU64,
    held: AtomicU64,
}

impl Limited {
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self { last: AtomicU64::new(0), held: AtomicU64::new(0) }
    }

    /// Writes the line, or counts it for the next one that gets through.
    pub fn warning(&self, text: fmt::Arguments<'_>) {
        match self.pass(seconds()) {
            None => {}
            Some(0) => warning(text),
            Some(held) => warning(format_args!("{text} ({held} such lines held back)")),
        }
    }

    /// How many lines were held back, if one may pass in second *now*.
    fn pass(&self, now: u64) -> Option<u64> {
        if self.last.swap(now, Ordering::Relaxed) == now {
            self.held.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.held.swap(0, Ordering::Relaxed))
    }
}

/// As `Limited`, for a signal handler: takes no lock and allocates nothing.
pub struct Few {
    written: AtomicU64,
    second: AtomicU64,
}

impl Few {
    /// Lines let through in one second.
    const PER_SECOND: u64 = 10;

    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self { written: AtomicU64::new(0), second: AtomicU64::new(0) }
    }

    /// Writes the line, unless enough have been written in this second; the last of them says that more may follow.
    pub fn warning(&self, text: fmt::Arguments<'_>) {
        match self.pass(seconds()) {
            written if written < Self::PER_SECOND => warning(text),
            Self::PER_SECOND => warning(format_args!("{text} (no more such lines within this second)")),
            _ => {}
        }
    }

    /// Which line of second *now* this one is, from 1.
    fn pass(&self, now: u64) -> u64 {
        if self.second.swap(now, Ordering::Relaxed) != now {
            self.written.store(0, Ordering::Relaxed);
        }
        self.written.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Seconds since the first call, from 1.
fn seconds() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs() + 1
}

const fn syslog(level: LogLevel) -> u8 {
    match level {
        LogLevel::Error => 3,
        LogLevel::Warning => 4,
        LogLevel::Info => 6,
        LogLevel::Debug => 7,
    }
}

fn line(level: LogLevel, text: fmt::Arguments<'_>) {
    if syslog(level) > LEVEL.load(Ordering::Relaxed) {
        return;
    }
    let mut line = Line { bytes: [0; MAX_LINE_BYTES], length: 0 };
    // Both only fail when the line is full, which cuts it.
    let _ = write!(line, "<{}>", syslog(level));
    let _ = line.write_fmt(text);
    if !line.send() {
        if let Some(stats) = STATS.get() {
            stats.add(Counter::LogDropped, 1);
        }
    }
}

struct Line {
    bytes: [u8; MAX_LINE_BYTES],
    length: usize,
}

impl Line {
    fn send(&mut self) -> bool {
        if let Some(last) = self.bytes.get_mut(self.length) {
            *last = b'\n';
            self.length += 1;
        }
        let line = self.bytes.get(..self.length).unwrap_or(&self.bytes);
        // SAFETY: descriptor 2 is open for the life of the process (checked at start) and nobody closes it.
        let pipe = unsafe { BorrowedFd::borrow_raw(2) };
        // syscall write: log lines; event descriptors
        rustix::io::write(pipe, line).is_ok_and(|written| written == line.len())
    }
}

impl Write for Line {
    /// Takes as many whole characters as fit before the line's end; control characters become '?'.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let shown = if character.is_control() { '?' } else { character };
            let end = self.length + shown.len_utf8();
            match self.bytes.get_mut(self.length..end) {
                Some(slot) if end < MAX_LINE_BYTES => shown.encode_utf8(slot),
                _ => return Err(fmt::Error),
            };
            self.length = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_to_its_room_and_carries_no_control_characters() {
        let mut line = Line { bytes: [0; MAX_LINE_BYTES], length: 0 };
        assert!(write!(line, "a\nb\x1b[1m{}", "ü".repeat(400)).is_err());
        let text = std::str::from_utf8(&line.bytes[..line.length]).expect("whole characters");
        assert!(text.starts_with("a?b?[1mü"));
        assert!((MAX_LINE_BYTES - 2..MAX_LINE_BYTES).contains(&line.length));
    }

    #[test]
    fn a_provoked_line_passes_once_a_second_and_says_what_was_held_back() {
        let limit = Limited::new();
        assert_eq!(limit.pass(7), Some(0));
        assert_eq!((limit.pass(7), limit.pass(7)), (None, None));
        assert_eq!(limit.pass(8), Some(2));
    }

    #[test]
    fn a_handler_s_lines_are_counted_anew_each_second() {
        let few = Few::new();
        assert_eq!((few.pass(7), few.pass(7), few.pass(8)), (1, 2, 1));
    }
}

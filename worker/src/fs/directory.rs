//! READDIR and READDIRPLUS.

use std::ffi::CStr;
use std::mem;
use std::os::fd::BorrowedFd;

use super::failure::{lock, refuse, shared, Errno};
use super::handles::OpenFile;
use super::inodes::Directory;
use super::{data, host, Answer, Call, Outcome, Server, Work};
use crate::fuse::abi::{ENTRY_BYTES, MAX_NAME_BYTES};
use crate::fuse::reply::{dirent_bytes, Attr, Validity};
use crate::fuse::Encoder;

/// `d_ino`, `d_off`, `d_reclen` and `d_type` of `struct linux_dirent64`.
const HEAD_BYTES: usize = 19;
const LEAST_READ: usize = 1024;
const MOST_READ: usize = 32 * 1024;

/// Reading position of an open directory.
#[derive(Debug, Default)]
pub struct Stream {
    /// Entries that the host gave and the last reply had no room for.
    leftover: Vec<u8>,
    /// Where the next entry is, leftover or not.
    cookie: i64,
    /// Something was read from the descriptor: it may be anywhere.
    used: bool,
}

impl Stream {
    /// Goes to *cookie*, without a system call where the last reply ended there. The start is always read anew.
    fn seek(&mut self, fd: BorrowedFd<'_>, cookie: i64) -> Result<(), Errno> {
        if self.used && (cookie != self.cookie || cookie == 0) || !self.used && cookie != 0 {
            host::seek(fd, cookie, libc::SEEK_SET)?;
            self.leftover = Vec::new();
        }
        self.cookie = cookie;
        Ok(())
    }
}

/// A thread's buffer for raw entries, and the part of it that is not used up.
#[derive(Debug, Default)]
pub(super) struct Entries {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// One entry as the host gave it.
#[derive(Clone, Copy)]
struct Entry<'s> {
    ino: u64,
    next: i64,
    kind: u8,
    name: &'s CStr,
    length: usize,
}

impl Entries {
    /// Starts with what an earlier reply left.
    fn begin(&mut self, stream: &mut Stream) {
        let leftover = mem::take(&mut stream.leftover);
        self.bytes.resize(MOST_READ, 0);
        self.start = 0;
        self.end = leftover.len().min(MOST_READ);
        for (target, byte) in self.bytes.iter_mut().zip(leftover) {
            *target = byte;
        }
    }

    /// The next entry, reading up to *size* more bytes if need be; `None` at the end.
    fn peek(&mut self, fd: BorrowedFd<'_>, stream: &mut Stream, size: usize) -> Result<Option<Entry<'_>>, Errno> {
        if self.start >= self.end {
            stream.used = true;
            (self.start, self.end) = (0, 0);
            self.end = host::getdents(fd, self.bytes.get_mut(..size).unwrap_or_default())?;
            if self.end == 0 {
                return Ok(None);
            }
        }
        let bytes = self.bytes.get(self.start..self.end).unwrap_or_default();
        Entry::parse(bytes).map(Some).ok_or(Errno(libc::EIO))
    }

    fn rest(&self) -> Vec<u8> {
        self.bytes.get(self.start..self.end).unwrap_or_default().to_vec()
    }
}

impl<'s> Entry<'s> {
    fn parse(bytes: &'s [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let (ino, head) = head.split_first_chunk::<8>()?;
        let (next, head) = head.split_first_chunk::<8>()?;
        let (length, kind) = head.split_first_chunk::<2>()?;
        Some(Self {
            ino: u64::from_le_bytes(*ino),
            next: i64::from_le_bytes(*next),
            kind: *kind.first()?,
            name: CStr::from_bytes_until_nul(rest).ok()?,
            length: usize::from(u16::from_le_bytes(*length)).max(HEAD_BYTES),
        })
    }

    fn is_dots(&self) -> bool {
        matches!(self.name.to_bytes(), b"." | b"..")
    }
}

impl Server {
    pub(super) fn readdir(&self, call: &Call<'_, '_>, work: &mut Work, plus: bool) -> Outcome {
        let mut fields = call.fields();
        let (fh, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let cookie = data::file_offset(offset)?;
        let file = shared(&self.handles).get(fh, call.header.node)?;
        let room = (size as usize).min(call.capacity()).min(data::MOST_BYTES);
        match self.fill(&file, cookie, room, plus, work) {
            // Entries that were looked up are in the reply: it must go out.
            Err(_) if !work.out.is_empty() => Ok(Answer::Encoded),
            Err(Errno(number)) => refuse(number),
            Ok(()) => Ok(Answer::Encoded),
        }
    }

    /// Encodes entries from *cookie* on until *room* is used up. An entry that does not fit is left for the next
    /// request, before anything was looked up for it.
    fn fill(&self, file: &OpenFile, cookie: i64, room: usize, plus: bool, work: &mut Work) -> Result<(), Errno> {
        let Some(stream) = &file.stream else { return Err(Errno(libc::ENOTDIR)) };
        let mut stream = lock(stream);
        stream.seek(file.fd(), cookie)?;
        let mut entries = mem::take(&mut work.entries);
        entries.begin(&mut stream);
        let result = self.fill_from(&mut entries, &mut stream, file, room, plus, &mut work.out);
        stream.leftover = entries.rest();
        work.entries = entries;
        result
    }

    fn fill_from(
        &self,
        entries: &mut Entries,
        stream: &mut Stream,
        file: &OpenFile,
        room: usize,
        plus: bool,
        out: &mut Encoder,
    ) -> Result<(), Errno> {
        // A reply holds about this much of what the host writes: little is left over for the next one.
        let (extra, size) = if plus { (ENTRY_BYTES, room / 4) } else { (0, room) };
        let size = size.clamp(LEAST_READ, MOST_READ);
        while let Some(entry) = entries.peek(file.fd(), stream, size)? {
            let name = entry.name.to_bytes();
            if out.len() + extra + dirent_bytes(name.len()) > room {
                return if out.is_empty() { Err(Errno(libc::EINVAL)) } else { Ok(()) };
            }
            if plus {
                self.encode_entry(file, &entry, out);
            }
            out.dirent(entry.ino, entry.next as u64, entry.kind, name);
            stream.cookie = entry.next;
            entries.start += entry.length;
        }
        Ok(())
    }

    /// The entry's attributes and node. Node 0, which the guest looks up itself when it needs to, for the dots and
    /// for whatever is gone or cannot be held.
    fn encode_entry(&self, file: &OpenFile, entry: &Entry<'_>, out: &mut Encoder) {
        let directory = Directory { id: file.node, descriptor: &file.descriptor };
        let is_usable = !entry.is_dots() && entry.name.count_bytes() <= MAX_NAME_BYTES;
        if let Some(Ok(found)) = is_usable.then(|| self.enter(directory, entry.name)) {
            out.entry(found.id, &found.attr, self.session.validity());
        } else {
            let attr = Attr { ino: entry.ino, mode: u32::from(entry.kind) << 12, ..Attr::default() };
            out.entry(0, &attr, Validity { entry: 0, attr: 0 });
        }
    }
}

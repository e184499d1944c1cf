//! READDIR and READDIRPLUS.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use super::failure::{lock, refuse, shared, Errno};
use super::handles::OpenFile;
use super::inodes::Directory;
use super::{data, host, Answer, Call, Outcome, Server, Work};
use crate::fuse::abi::{ENTRY_BYTES, MAX_NAME_BYTES};
use crate::fuse::reply::{dirent_bytes, Attr, Validity};

const BUFFER_BYTES: usize = 32 * 1024;
/// `d_ino`, `d_off`, `d_reclen` and `d_type` of `struct linux_dirent64`.
const HEAD_BYTES: usize = 19;

/// Reading position of an open directory: entries that the host gave and no reply had room for yet.
#[derive(Debug, Default)]
pub struct Stream {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Cookie of the entry at *start*.
    cookie: i64,
    /// Something was read from the descriptor: it may be anywhere.
    used: bool,
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

impl Stream {
    /// Goes to *cookie*, without a system call where the last reply ended there. The start is always read anew.
    fn seek(&mut self, fd: BorrowedFd<'_>, cookie: i64) -> Result<(), Errno> {
        if self.used && (cookie != self.cookie || cookie == 0) || !self.used && cookie != 0 {
            host::seek(fd, cookie, libc::SEEK_SET)?;
            (self.start, self.end) = (0, 0);
        }
        self.cookie = cookie;
        Ok(())
    }

    /// The entry at the position, reading more if need be; `None` at the end.
    fn peek(&mut self, fd: BorrowedFd<'_>) -> Result<Option<Entry<'_>>, Errno> {
        if self.start >= self.end {
            self.buffer.resize(BUFFER_BYTES, 0);
            self.used = true;
            (self.start, self.end) = (0, host::getdents(fd, &mut self.buffer)?);
            if self.end == 0 {
                self.buffer = Vec::new();
                return Ok(None);
            }
        }
        let bytes = self.buffer.get(self.start..self.end).unwrap_or_default();
        Entry::parse(bytes).map(Some).ok_or(Errno(libc::EIO))
    }

    fn advance(&mut self, length: usize, next: i64) {
        self.start += length;
        self.cookie = next;
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
        let room = (size as usize).min(call.capacity());
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
        let extra = if plus { ENTRY_BYTES } else { 0 };
        while let Some(entry) = stream.peek(file.fd())? {
            let name = entry.name.to_bytes();
            if work.out.len() + extra + dirent_bytes(name.len()) > room {
                return if work.out.is_empty() { Err(Errno(libc::EINVAL)) } else { Ok(()) };
            }
            if plus {
                self.encode_entry(file, &entry, work);
            }
            work.out.dirent(entry.ino, entry.next as u64, entry.kind, name);
            let (length, next) = (entry.length, entry.next);
            stream.advance(length, next);
        }
        Ok(())
    }

    /// The entry's attributes and node. Node 0, which the guest looks up itself when it needs to, for the dots and
    /// for whatever is gone or cannot be held.
    fn encode_entry(&self, file: &OpenFile, entry: &Entry<'_>, work: &mut Work) {
        let directory = Directory { id: file.node, descriptor: &file.descriptor };
        let is_usable = !entry.is_dots() && entry.name.count_bytes() <= MAX_NAME_BYTES;
        if let Some(Ok(found)) = is_usable.then(|| self.enter(directory, entry.name)) {
            work.out.entry(found.id, &found.attr, self.session.validity());
        } else {
            let attr = Attr { ino: entry.ino, mode: u32::from(entry.kind) << 12, ..Attr::default() };
            work.out.entry(0, &attr, Validity { entry: 0, attr: 0 });
        }
    }
}

//! READDIR and READDIRPLUS.

use std::ffi::CStr;
use std::mem;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::failure::{lock, refuse, shared, Errno};
use super::handles::OpenFile;
use super::inodes::Directory;
use super::law::Law;
use super::stat::Stat;
use super::{data, host, Answer, Call, Outcome, Server, Work};
use crate::fuse::abi::{ENTRY_BYTES, MAX_NAME_BYTES};
use crate::fuse::reply::{dirent_bytes, Attr, Validity};
use crate::fuse::Encoder;
use crate::rules::State;

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

/// One request for entries: of what, and into how much room.
struct Listing<'l> {
    file: &'l OpenFile,
    filter: Option<Filter<'l>>,
    room: usize,
    plus: bool,
}

/// Leaves out what path rules hide.
struct Filter<'l> {
    law: &'l Law,
    /// That of the directory.
    state: Arc<State>,
}

impl Filter<'_> {
    fn hides(&self, directory: &OpenFile, entry: &Entry<'_>) -> bool {
        if entry.is_dots() {
            return false;
        }
        let state = self.law.rules.enter(&self.state, entry.name.to_bytes());
        let hidden = |is_directory: bool| self.law.rules.judge(&state, is_directory).hidden;
        match entry.kind {
            libc::DT_DIR => hidden(true),
            // Some file systems tell no types, and on the way to what is allowed only directories are visible.
            libc::DT_UNKNOWN if hidden(false) && !hidden(true) => {
                !Stat::of_name(directory.fd(), entry.name).is_ok_and(|stat| stat.is_directory())
            }
            _ => hidden(false),
        }
    }
}

impl Server {
    pub(super) fn readdir(&self, call: &Call<'_, '_>, work: &mut Work, plus: bool) -> Outcome {
        let mut fields = call.fields();
        let (fh, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let cookie = data::file_offset(offset)?;
        let file = shared(&self.handles).get(fh, call.header.node)?;
        let room = (size as usize).min(call.capacity()).min(data::MOST_BYTES);
        let filter = match call.law {
            Some(law) => Some(Filter { law, state: self.inodes(|inodes| inodes.state(law, file.node))? }),
            None => None,
        };
        let listing = Listing { file: &file, filter, room, plus };
        match self.fill(&listing, cookie, work) {
            // Entries that were looked up are in the reply: it must go out.
            Err(_) if !work.out.is_empty() => Ok(Answer::Encoded),
            Err(Errno(number)) => refuse(number),
            Ok(()) => Ok(Answer::Encoded),
        }
    }

    /// Encodes entries from *cookie* on until *room* is used up. An entry that does not fit is left for the next
    /// request, before anything was looked up for it.
    fn fill(&self, listing: &Listing<'_>, cookie: i64, work: &mut Work) -> Result<(), Errno> {
        let Some(stream) = &listing.file.stream else { return Err(Errno(libc::ENOTDIR)) };
        let mut stream = lock(stream);
        stream.seek(listing.file.fd(), cookie)?;
        let mut entries = mem::take(&mut work.entries);
        entries.begin(&mut stream);
        let result = self.fill_from(&mut entries, &mut stream, listing, &mut work.out);
        stream.leftover = entries.rest();
        work.entries = entries;
        result
    }

    fn fill_from(
        &self,
        entries: &mut Entries,
        stream: &mut Stream,
        listing: &Listing<'_>,
        out: &mut Encoder,
    ) -> Result<(), Errno> {
        let Listing { file, filter, room, plus } = listing;
        let (room, plus) = (*room, *plus);
        // A reply holds about this much of what the host writes: little is left over for the next one.
        let (extra, size) = if plus { (ENTRY_BYTES, room / 4) } else { (0, room) };
        let size = size.clamp(LEAST_READ, MOST_READ);
        while let Some(entry) = entries.peek(file.fd(), stream, size)? {
            let name = entry.name.to_bytes();
            if filter.as_ref().is_some_and(|filter| filter.hides(file, &entry)) {
                // The cookie stays with the last entry that was shown: that is the one the guest goes on from.
                entries.start += entry.length;
                continue;
            }
            if out.len() + extra + dirent_bytes(name.len()) > room {
                return if out.is_empty() { Err(Errno(libc::EINVAL)) } else { Ok(()) };
            }
            if plus {
                self.encode_entry(listing, &entry, out);
            }
            out.dirent(entry.ino, entry.next as u64, entry.kind, name);
            stream.cookie = entry.next;
            entries.start += entry.length;
        }
        Ok(())
    }

    /// The entry's attributes and node. Node 0, which the guest looks up itself when it needs to, for the dots and
    /// for whatever is gone or cannot be held.
    fn encode_entry(&self, listing: &Listing<'_>, entry: &Entry<'_>, out: &mut Encoder) {
        let directory = Directory { id: listing.file.node, descriptor: &listing.file.descriptor };
        let law = listing.filter.as_ref().map(|filter| filter.law);
        let is_usable = !entry.is_dots() && entry.name.count_bytes() <= MAX_NAME_BYTES;
        if let Some(Ok(found)) = is_usable.then(|| self.enter(law, directory, entry.name)) {
            out.entry(found.id, &found.attr, self.session.validity());
        } else {
            let attr = Attr { ino: entry.ino, mode: u32::from(entry.kind) << 12, ..Attr::default() };
            out.entry(0, &attr, Validity::default());
        }
    }
}

//! READ and WRITE: between guest memory and file, with nothing in between.

use std::os::fd::BorrowedFd;

use super::failure::{refuse, shared, Errno, Failure};
use super::session::MAX_WRITE;
use super::{host, Answer, Call, Outcome, Server, Work};
use crate::buffers::Buffers;
use crate::fuse::abi::{IN_HEADER_BYTES, OUT_HEADER_BYTES, WRITE_CACHE, WRITE_IN_BYTES};
use crate::fuse::Malformed;
use crate::stats::Counter;

/// The kernel's `IOV_MAX`.
const MAX_RANGES: usize = 1024;

/// What INIT allows in one request; a guest that asks for more gets a short count.
pub(super) const MOST_BYTES: usize = MAX_WRITE as usize;

/// A reused list of ranges; empty between requests.
#[derive(Default)]
pub(super) struct Iovecs {
    ranges: Vec<libc::iovec>,
}

// SAFETY: the pointers are only ever used by the request that filled the list, which empties it before it returns.
unsafe impl Send for Iovecs {}

impl Iovecs {
    /// Moves bytes `[start, start + length)` of *buffers* by *step*, which is given ranges and the number of bytes
    /// done, until all are moved or a step moves none. An error after some bytes is a short count.
    fn transfer(
        &mut self,
        buffers: &Buffers<'_>,
        start: usize,
        length: usize,
        mut step: impl FnMut(&[libc::iovec], usize) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let mut done = 0;
        while done < length {
            self.ranges.clear();
            buffers.window(start + done, length - done, MAX_RANGES, &mut self.ranges);
            let result = step(&self.ranges, done);
            self.ranges.clear();
            match result {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno(libc::EINTR)) => {}
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }
}

impl Server {
    pub(super) fn read(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let mut fields = call.fields();
        let (fh, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let offset = file_offset(offset)?;
        let file = shared(&self.handles).get(fh, call.header.node)?;
        let length = (size as usize).min(call.capacity()).min(MOST_BYTES);
        let count = work.iovecs.transfer(call.reply, OUT_HEADER_BYTES, length, |ranges, done| {
            // SAFETY: the ranges are the driver's reply buffers, which Buffers vouches for.
            unsafe { host::read_vectored(file.fd(), ranges, offset.saturating_add(done as i64)) }
        })?;
        self.stats.add(Counter::BytesRead, count as u64);
        work.moved = count as u64;
        Ok(Answer::InPlace(count))
    }

    pub(super) fn write(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let mut fields = call.fields();
        let (fh, offset, size, set) = (fields.u64()?, fields.u64()?, fields.u32()?, fields.u32()?);
        fields.u64()?;
        let (open_flags, _) = (fields.u32()? as i32, fields.u32()?);
        let start = IN_HEADER_BYTES + WRITE_IN_BYTES;
        if (size as usize) > (call.header.length as usize).saturating_sub(start) {
            return Err(Malformed("less data than announced").into());
        }
        let offset = file_offset(offset)?;
        let file = shared(&self.handles).get(fh, call.header.node)?;
        // Pages that the guest has cached belong where they were, even if the file has grown since.
        let append = set & WRITE_CACHE == 0 && open_flags & libc::O_APPEND != 0;
        let length = (size as usize).min(MOST_BYTES);
        let count = work.iovecs.transfer(call.request, start, length, |ranges, done| {
            write_at(file.fd(), ranges, offset.saturating_add(done as i64), append)
        })?;
        self.stats.add(Counter::BytesWritten, count as u64);
        work.moved = count as u64;
        work.out.u32(count as u32);
        work.out.u32(0);
        Ok(Answer::Encoded)
    }
}

fn write_at(fd: BorrowedFd<'_>, ranges: &[libc::iovec], offset: i64, append: bool) -> Result<usize, Errno> {
    let flags = if append { libc::RWF_APPEND } else { 0 };
    // SAFETY: the ranges are the driver's request buffers, which Buffers vouches for.
    unsafe { host::write_vectored(fd, ranges, offset, flags) }
}

/// -1 would mean the descriptor's own position to the kernel, and nothing below 0 is an offset.
pub(super) fn file_offset(offset: u64) -> Result<i64, Failure> {
    match i64::try_from(offset) {
        Ok(offset) => Ok(offset),
        Err(_) => refuse(libc::EINVAL),
    }
}

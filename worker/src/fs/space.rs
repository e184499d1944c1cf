//! FALLOCATE, LSEEK, COPY_FILE_RANGE, SYNCFS: where a file's bytes lie.

use std::os::fd::AsFd;

use super::data::file_offset;
use super::failure::{refuse, shared};
use super::{host, Answer, Call, Outcome, Server, Work};

/// One COPY_FILE_RANGE copies no more, so that it does not hold the queue for long; the guest asks for the rest.
const MAX_COPY: u64 = 64 << 20;
/// What fallocate(2) has modes for; all others are answered here, since the jail forbids to ask.
const FALLOCATE_MODES: i32 = libc::FALLOC_FL_KEEP_SIZE
    | libc::FALLOC_FL_PUNCH_HOLE
    | libc::FALLOC_FL_COLLAPSE_RANGE
    | libc::FALLOC_FL_ZERO_RANGE
    | libc::FALLOC_FL_INSERT_RANGE
    | libc::FALLOC_FL_UNSHARE_RANGE;

impl Server {
    pub(super) fn fallocate(&self, call: &Call<'_, '_>) -> Outcome {
        let mut fields = call.fields();
        let (fh, offset, length, mode) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u32()? as i32);
        let file = shared(&self.handles).get(fh, call.header.node)?;
        if mode & !FALLOCATE_MODES != 0 {
            return refuse(libc::EOPNOTSUPP);
        }
        host::allocate(file.fd(), mode, file_offset(offset)?, file_offset(length)?)?;
        Ok(Answer::Encoded)
    }

    pub(super) fn lseek(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let mut fields = call.fields();
        let (fh, offset, whence) = (fields.u64()?, fields.u64()?, fields.u32()? as i32);
        let file = shared(&self.handles).get(fh, call.header.node)?;
        // The position of the descriptor is nobody's but a directory's stream, which is not moved from here.
        if file.stream.is_some() || !matches!(whence, libc::SEEK_DATA | libc::SEEK_HOLE) {
            return refuse(libc::EINVAL);
        }
        work.out.u64(host::seek(file.fd(), file_offset(offset)?, whence)?);
        Ok(Answer::Encoded)
    }

    pub(super) fn copy_file_range(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let mut fields = call.fields();
        let (fh, offset, target) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (target_fh, target_offset) = (fields.u64()?, fields.u64()?);
        let (length, flags) = (fields.u64()?, fields.u64()?);
        if flags != 0 {
            return refuse(libc::EINVAL);
        }
        let (from, to) = {
            let handles = shared(&self.handles);
            (handles.get(fh, call.header.node)?, handles.get(target_fh, target)?)
        };
        let (offset, target_offset) = (file_offset(offset)?, file_offset(target_offset)?);
        let length = length.min(self.most_copied());
        let copied = host::copy(from.fd(), offset, to.fd(), target_offset, length as usize)?;
        work.moved = copied as u64;
        work.out.u32(copied as u32);
        work.out.u32(0);
        Ok(Answer::Encoded)
    }

    /// Under a limit a copy goes in pieces, as writing the same bytes would.
    fn most_copied(&self) -> u64 {
        if self.limiter.is_set() {
            self.limiter.chunk()
        } else {
            MAX_COPY
        }
    }

    pub(super) fn syncfs(&self, call: &Call<'_, '_>) -> Outcome {
        let root = self.open_node(call.header.node, libc::O_RDONLY)?;
        host::sync_file_system(root.as_fd())?;
        Ok(Answer::Encoded)
    }
}

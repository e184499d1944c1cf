//! OPEN, OPENDIR, FLUSH, FSYNC, RELEASE: handles and their lives.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::descriptors::Descriptor;
use super::directory::Stream;
use super::failure::{exclusive, refuse, shared, Failure};
use super::{host, Answer, Call, Outcome, Server, Work};
use crate::fuse::abi::FSYNC_DATASYNC;

/// What of the guest's flags reaches the host beside the access mode.
const KEPT_FLAGS: i32 = libc::O_SYNC | libc::O_DSYNC;

impl Server {
    pub(super) fn open(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let wanted = call.fields().u32()? as i32;
        let flags = self.host_flags(wanted)?;
        let descriptor = self.open_file(call.header.node, flags, wanted)?;
        let fh = self.register(call.header.node, descriptor, flags, None)?;
        work.out.open(fh, self.session.file_flags());
        Ok(Answer::Encoded)
    }

    /// Opens a file with host *flags*, and truncates it if the guest's own flags say so. Linux does that for reading
    /// as well, and the guest has checked that its caller may write.
    pub(super) fn open_file(&self, id: u64, flags: i32, wanted: i32) -> Result<Arc<Descriptor>, Failure> {
        if self.inodes(|inodes| inodes.get(id))?.kind == libc::S_IFDIR {
            return refuse(libc::EISDIR);
        }
        let descriptor = self.open_node(id, flags)?;
        if wanted & libc::O_TRUNC != 0 {
            if flags & libc::O_ACCMODE == libc::O_RDONLY {
                host::truncate(self.open_node(id, libc::O_WRONLY)?.as_fd(), 0)?;
            } else {
                host::truncate(descriptor.as_fd(), 0)?;
            }
        }
        Ok(descriptor)
    }

    pub(super) fn opendir(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let node = self.inodes(|inodes| inodes.get(call.header.node))?;
        if node.kind != libc::S_IFDIR {
            return refuse(libc::ENOTDIR);
        }
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let descriptor = self.open_node(call.header.node, flags)?;
        let fh = self.register(call.header.node, descriptor, flags, Some(Stream::default()))?;
        work.out.open(fh, self.session.directory_flags());
        Ok(Answer::Encoded)
    }

    /// Access mode and flags for the host descriptor. Append is kept out of it (WRITE does it, so that cached pages
    /// land where they belong); truncation waits for the identity check; direct I/O would ask for alignment that
    /// guest memory need not have.
    pub(super) fn host_flags(&self, wanted: i32) -> Result<i32, Failure> {
        let access = wanted & libc::O_ACCMODE;
        if access == libc::O_ACCMODE {
            return refuse(libc::EINVAL);
        }
        Ok(self.session.host_access(wanted) | wanted & KEPT_FLAGS)
    }

    /// Gives *descriptor* a handle number, in both tables.
    pub(super) fn register(
        &self,
        node: u64,
        descriptor: Arc<Descriptor>,
        flags: i32,
        stream: Option<Stream>,
    ) -> Result<u64, Failure> {
        let file = exclusive(&self.handles).insert(node, descriptor, flags, stream)?;
        if let Err(errno) = self.inodes(|inodes| inodes.attach(node, file.fh, &file.descriptor)) {
            let removed = exclusive(&self.handles).remove(file.fh, node);
            drop(removed);
            return Err(errno.into());
        }
        Ok(file.fh)
    }

    pub(super) fn release(&self, call: &Call<'_, '_>) -> Outcome {
        let fh = call.fields().u64()?;
        let file = exclusive(&self.handles).remove(fh, call.header.node)?;
        self.inodes(|inodes| inodes.detach_open(file.node, fh));
        Ok(Answer::Encoded)
    }

    pub(super) fn flush(&self, call: &Call<'_, '_>) -> Outcome {
        let fh = call.fields().u64()?;
        let file = shared(&self.handles).get(fh, call.header.node)?;
        host::flush(file.fd())?;
        Ok(Answer::Encoded)
    }

    pub(super) fn fsync(&self, call: &Call<'_, '_>) -> Outcome {
        let mut fields = call.fields();
        let (fh, set) = (fields.u64()?, fields.u32()?);
        let file = shared(&self.handles).get(fh, call.header.node)?;
        host::sync(file.fd(), set & FSYNC_DATASYNC != 0)?;
        Ok(Answer::Encoded)
    }
}

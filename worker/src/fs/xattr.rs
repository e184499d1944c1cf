//! SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR.
//!
//! An `O_PATH` descriptor carries no attribute calls, and opening the file for data is impossible for links and
//! special files. Linux 6.13 has calls relative to a directory, which reach any file through `self/fd/N`; before
//! that, regular files and directories are opened once more, and the others answer EOPNOTSUPP.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::failure::{refuse, Errno, Failure};
use super::host::{self, Attribute};
use super::{Answer, Call, Outcome, Server, Work};
use crate::config::Attributes;
use crate::fuse::Encoder;

const MAX_NAME: usize = 255;
const MAX_VALUE: usize = 65536;
/// Access lists take part in permission checks, which the guest does: it would have to be told of them at INIT.
const ACL_NAMES: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Room for the longest value or list, made at the first use and kept.
#[derive(Debug, Default)]
pub(super) struct Values(Vec<u8>);

impl Values {
    fn room(&mut self, size: usize) -> &mut [u8] {
        self.0.resize(MAX_VALUE, 0);
        self.0.get_mut(..size.min(MAX_VALUE)).unwrap_or_default()
    }
}

/// Whether the kernel has the calls relative to a directory; found out at the first use.
#[derive(Debug)]
pub(super) struct RelativeCalls(AtomicBool);

impl RelativeCalls {
    /// Where only open files may be reached they are not to be tried.
    pub(super) fn untried(attributes: Attributes) -> Self {
        Self(AtomicBool::new(attributes == Attributes::Path))
    }
}

impl Server {
    pub(super) fn setxattr(&self, call: &Call<'_, '_>) -> Outcome {
        let mut fields = call.fields();
        let (size, flags) = (fields.u32()? as usize, fields.u32()? as i32);
        let name = attribute_name(fields.string()?)?;
        let value = fields.bytes(size)?;
        fields.end()?;
        if size > MAX_VALUE {
            return refuse(libc::E2BIG);
        }
        if flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 {
            return refuse(libc::EINVAL);
        }
        self.on_attribute(call.header.node, |file| host::set_attribute(file, name, value, flags))?;
        Ok(Answer::Encoded)
    }

    pub(super) fn getxattr(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let mut fields = call.fields();
        let (size, _) = (fields.u32()? as usize, fields.u32()?);
        let name = attribute_name(fields.string()?)?;
        fields.end()?;
        let value = if size == 0 { &mut [][..] } else { work.values.room(size) };
        let length = self.on_attribute(call.header.node, |file| host::get_attribute(file, name, value))?;
        encode_value(&mut work.out, size, length, value.get(..length).unwrap_or_default());
        fitting(call, work)
    }

    pub(super) fn listxattr(&self, call: &Call<'_, '_>, work: &mut Work) -> Outcome {
        let mut fields = call.fields();
        let (size, _) = (fields.u32()? as usize, fields.u32()?);
        // The whole list, since names are taken out of it before its length is told.
        let list = work.values.room(MAX_VALUE);
        let length = self.on_attribute(call.header.node, |file| host::list_attributes(file, list))?;
        let names = || {
            let list = list.get(..length).unwrap_or_default();
            list.split_inclusive(|&byte| byte == 0).filter(|name| !is_acl(name.strip_suffix(b"\0").unwrap_or(name)))
        };
        let visible = names().map(<[u8]>::len).sum();
        if size != 0 && visible > size {
            return refuse(libc::ERANGE);
        }
        encode_value(&mut work.out, size, visible, &[]);
        if size != 0 {
            names().for_each(|name| work.out.bytes(name));
        }
        fitting(call, work)
    }

    pub(super) fn removexattr(&self, call: &Call<'_, '_>) -> Outcome {
        let mut fields = call.fields();
        let name = attribute_name(fields.string()?)?;
        fields.end()?;
        self.on_attribute(call.header.node, |file| host::remove_attribute(file, name))?;
        Ok(Answer::Encoded)
    }

    /// Runs an attribute call on the node: relative to procfs, or on the file opened once more.
    fn on_attribute<T>(&self, id: u64, mut act: impl FnMut(Attribute<'_>) -> Result<T, Errno>) -> Result<T, Failure> {
        let node = self.inodes(|inodes| inodes.get(id))?;
        let descriptor = self.descriptor(id)?;
        if self.xattr_calls.0.load(Ordering::Relaxed) {
            let proc: BorrowedFd<'_> = self.proc.as_fd();
            match act(Attribute::Linked { proc, fd: descriptor.as_fd() }) {
                Err(Errno(libc::ENOSYS)) => self.xattr_calls.0.store(false, Ordering::Relaxed),
                other => return Ok(other?),
            }
        }
        if !matches!(node.kind, libc::S_IFREG | libc::S_IFDIR) {
            return refuse(libc::EOPNOTSUPP);
        }
        let opened = match self.attribute_calls {
            Attributes::Path => self.open_node(id, libc::O_RDONLY)?,
            Attributes::Open => self.open_for_attributes(id)?,
        };
        Ok(act(Attribute::Opened(opened.as_fd()))?)
    }
}

fn attribute_name(name: &CStr) -> Result<&CStr, Failure> {
    if !(1..=MAX_NAME).contains(&name.count_bytes()) {
        return refuse(libc::ERANGE);
    }
    if is_acl(name.to_bytes()) {
        return refuse(libc::EOPNOTSUPP);
    }
    Ok(name)
}

fn is_acl(name: &[u8]) -> bool {
    ACL_NAMES.contains(&name)
}

/// Size 0 asks for the length alone (`struct fuse_getxattr_out`).
fn encode_value(out: &mut Encoder, size: usize, length: usize, bytes: &[u8]) {
    if size == 0 {
        out.u32(length as u32);
        out.u32(0);
    } else {
        out.bytes(bytes);
    }
}

fn fitting(call: &Call<'_, '_>, work: &Work) -> Outcome {
    if work.out.len() > call.capacity() {
        return refuse(libc::ERANGE);
    }
    Ok(Answer::Encoded)
}

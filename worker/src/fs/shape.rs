//! What is known of a request by its opcode alone: sizes, and what it may do.

use crate::buffers::Buffers;
use crate::fuse::abi::{
    ATTR_BYTES, ENTRY_BYTES, INIT_BYTES, IN_HEADER_BYTES, OPEN_BYTES, STATFS_BYTES, WRITE_IN_BYTES,
};
use crate::fuse::{Header, Malformed, Opcode};

/// Nothing but WRITE and BATCH_FORGET is longer: a name and an extended attribute of 64 KiB.
const MAX_BODY: usize = 80 * 1024;

/// Copies what an operation reads piece by piece; the payloads of WRITE and BATCH_FORGET stay where they are.
pub fn copy_body(
    header: &Header,
    opcode: Option<Opcode>,
    request: &Buffers<'_>,
    body: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let length = header.body_length(request)?;
    if opcode.is_some_and(|opcode| length < least_request(opcode)) {
        return Err(Malformed("the request ends too early"));
    }
    let copied = match opcode {
        Some(Opcode::Write) => length.min(WRITE_IN_BYTES),
        Some(Opcode::BatchForget) => length.min(8),
        Some(_) if length > MAX_BODY => return Err(Malformed("the request is longer than any of its kind")),
        Some(_) => length,
        None => 0,
    };
    body.resize(copied, 0);
    request.read_at(IN_HEADER_BYTES, body);
    Ok(())
}

/// Size of the structure that a request begins with.
fn least_request(opcode: Opcode) -> usize {
    match opcode {
        Opcode::Lookup
        | Opcode::Readlink
        | Opcode::Symlink
        | Opcode::Unlink
        | Opcode::Rmdir
        | Opcode::Statfs
        | Opcode::Removexattr
        | Opcode::Destroy => 0,
        Opcode::Getattr
        | Opcode::Mknod
        | Opcode::Rename2
        | Opcode::Create
        | Opcode::Init
        | Opcode::Fsync
        | Opcode::Fsyncdir => 16,
        Opcode::Release | Opcode::Releasedir | Opcode::Flush | Opcode::Lseek => 24,
        Opcode::Fallocate => 32,
        Opcode::Read | Opcode::Readdir | Opcode::Readdirplus | Opcode::Write => 40,
        Opcode::CopyFileRange => 56,
        Opcode::Setattr => 88,
        _ => 8,
    }
}

/// Bytes of reply body that must fit before the operation may begin, so that nothing has to be undone.
pub fn least_reply(opcode: Opcode) -> usize {
    match opcode {
        Opcode::Lookup | Opcode::Symlink | Opcode::Mknod | Opcode::Mkdir | Opcode::Link => ENTRY_BYTES,
        Opcode::Getattr | Opcode::Setattr => ATTR_BYTES,
        Opcode::Open | Opcode::Opendir => OPEN_BYTES,
        Opcode::Create => ENTRY_BYTES + OPEN_BYTES,
        Opcode::Write | Opcode::Lseek | Opcode::CopyFileRange => 8,
        Opcode::Statfs => STATFS_BYTES,
        Opcode::Init => INIT_BYTES,
        _ => 0,
    }
}

/// Requests that a read-only share refuses by their kind alone; OPEN and ACCESS look at their flags.
pub fn mutates(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Setattr
            | Opcode::Symlink
            | Opcode::Mknod
            | Opcode::Mkdir
            | Opcode::Unlink
            | Opcode::Rmdir
            | Opcode::Rename
            | Opcode::Rename2
            | Opcode::Link
            | Opcode::Write
            | Opcode::Create
            | Opcode::Setxattr
            | Opcode::Removexattr
            | Opcode::Fallocate
            | Opcode::CopyFileRange
    )
}

pub fn is_xattr(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::Setxattr | Opcode::Getxattr | Opcode::Listxattr | Opcode::Removexattr)
}

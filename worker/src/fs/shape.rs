//! What is known of a request by its opcode and first bytes: sizes, and what it is about to do.

use crate::buffers::Buffers;
use crate::fuse::abi::{
    setattr, ATTR_BYTES, ENTRY_BYTES, INIT_BYTES, IN_HEADER_BYTES, OPEN_BYTES, STATFS_BYTES, WRITE_IN_BYTES,
};
use crate::fuse::request::Fields;
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

/// Size of the structure that a request begins with; names come after it.
pub fn least_request(opcode: Opcode) -> usize {
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

/// What a request does to the node in its header, and to names in it: what read-only shares and path rules go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Keeps the session's books, and works whatever the rules say.
    Keeps,
    /// Looks at the node or what is in it.
    Sees,
    /// Changes the node or what is in it.
    Changes,
    /// Looks for a name.
    Finds,
    Adds {
        directory: bool,
    },
    /// Adds a name for a second node, which comes first in the body.
    Links,
    Removes {
        directory: bool,
    },
    /// Takes a name to a second directory, which comes first in the body.
    Moves,
    /// Changes a second node, and looks at the one in the header.
    Copies,
}

impl Deed {
    /// Of a request whose body is as long as its opcode demands.
    pub fn of(opcode: Opcode, body: &[u8]) -> Self {
        match opcode {
            Opcode::Init
            | Opcode::Destroy
            | Opcode::Interrupt
            | Opcode::Forget
            | Opcode::BatchForget
            | Opcode::Release
            | Opcode::Releasedir => Self::Keeps,
            Opcode::Getattr
            | Opcode::Readlink
            | Opcode::Statfs
            | Opcode::Opendir
            | Opcode::Read
            | Opcode::Readdir
            | Opcode::Readdirplus
            | Opcode::Flush
            | Opcode::Fsync
            | Opcode::Fsyncdir
            | Opcode::Lseek
            | Opcode::Syncfs
            | Opcode::Getxattr
            | Opcode::Listxattr => Self::Sees,
            Opcode::Setattr | Opcode::Open | Opcode::Access if !announces_change(opcode, body) => Self::Sees,
            Opcode::Setattr
            | Opcode::Open
            | Opcode::Access
            | Opcode::Write
            | Opcode::Fallocate
            | Opcode::Setxattr
            | Opcode::Removexattr => Self::Changes,
            Opcode::Lookup => Self::Finds,
            Opcode::Create | Opcode::Mknod | Opcode::Symlink => Self::Adds { directory: false },
            Opcode::Mkdir => Self::Adds { directory: true },
            Opcode::Link => Self::Links,
            Opcode::Unlink => Self::Removes { directory: false },
            Opcode::Rmdir => Self::Removes { directory: true },
            Opcode::Rename | Opcode::Rename2 => Self::Moves,
            Opcode::CopyFileRange => Self::Copies,
        }
    }

    pub fn is_change(self) -> bool {
        !matches!(self, Self::Keeps | Self::Sees | Self::Finds)
    }
}

/// Whether the flags that such a request begins with speak of a change.
fn announces_change(opcode: Opcode, body: &[u8]) -> bool {
    let flags = Fields::new(body).u32().unwrap_or(u32::MAX);
    match opcode {
        Opcode::Setattr => flags & setattr::CHANGES != 0,
        Opcode::Open => opens_for_change(flags as i32),
        Opcode::Access => flags as i32 & libc::W_OK != 0,
        _ => true,
    }
}

pub fn opens_for_change(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0
}

pub fn is_xattr(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::Setxattr | Opcode::Getxattr | Opcode::Listxattr | Opcode::Removexattr)
}

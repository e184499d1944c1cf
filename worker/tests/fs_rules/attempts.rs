//! Every way in which an opcode can be aimed at a file, a name or a directory.

use virtiofs_worker::fuse::abi::setattr;
use virtiofs_worker::fuse::Opcode;

use crate::fs_guest::{body, Body, Setattr};

/// Where requests are aimed at: a name in a directory, the node behind it, and a handle on that.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub directory: u64,
    pub name: &'static str,
    pub node: u64,
    pub fh: u64,
    pub directory_fh: u64,
    /// A symbolic link in the directory, if it has one.
    pub symlink: u64,
}

/// Node of the header, body, and room for the reply.
pub type Request = (u64, Body, usize);

fn handle(fh: u64) -> Body {
    body().u64(fh).u64(0).u32(4).zeros(20)
}

/// All ways in which *opcode* changes the node of *target* or its data.
pub fn changes_of_node(opcode: Opcode, target: Target, free: Target) -> Vec<Request> {
    let Target { node, fh, .. } = target;
    let set = |valid| (node, Setattr { valid, fh, mode: 0o777, mtime: 1, ..Setattr::default() }.body(), 104);
    match opcode {
        Opcode::Setattr => [
            setattr::MODE,
            setattr::UID,
            setattr::GID,
            setattr::SIZE,
            setattr::SIZE | setattr::FH,
            setattr::ATIME,
            setattr::MTIME,
            setattr::MTIME | setattr::MTIME_NOW | setattr::FH,
        ]
        .map(set)
        .to_vec(),
        Opcode::Open => [libc::O_WRONLY, libc::O_RDWR, libc::O_TRUNC, libc::O_WRONLY | libc::O_TRUNC | libc::O_APPEND]
            .map(|flags| (node, body().u32(flags as u32).u32(0), 16))
            .to_vec(),
        Opcode::Write => {
            let write = |set, flags| body().u64(fh).u64(0).u32(4).u32(set).u64(0).u32(flags).u32(0).bytes(b"evil");
            vec![(node, write(0, 0), 8), (node, write(1, 0), 8), (node, write(0, libc::O_APPEND as u32), 8)]
        }
        Opcode::Fallocate => [0, libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE]
            .map(|mode| (node, body().u64(fh).u64(0).u64(4).u32(mode as u32).u32(0), 0))
            .to_vec(),
        Opcode::CopyFileRange => {
            vec![(free.node, body().u64(free.fh).u64(0).u64(node).u64(fh).u64(0).u64(4).u64(0), 8)]
        }
        Opcode::Setxattr => vec![(node, body().u32(4).u32(0).name("user.x").bytes(b"evil"), 0)],
        Opcode::Removexattr => vec![(node, body().name("user.kept"), 0)],
        Opcode::Access => vec![(node, body().u32(libc::W_OK as u32).u32(0), 0)],
        Opcode::Link => vec![(free.directory, body().u64(node).name("alias"), 128)],
        _ => Vec::new(),
    }
}

/// All ways in which *opcode* takes the name of *target* away, or moves it, or puts something over it.
pub fn changes_of_name(opcode: Opcode, target: Target, free: Target) -> Vec<Request> {
    let Target { directory, name, .. } = target;
    let rename = |flags: Option<u32>, from: (u64, &str), to: (u64, &str)| {
        let body = body().u64(to.0);
        let body = if let Some(flags) = flags { body.u32(flags).u32(0) } else { body };
        (from.0, body.name(from.1).name(to.1), 0)
    };
    let (here, there) = ((directory, name), (free.directory, free.name));
    match opcode {
        Opcode::Unlink | Opcode::Rmdir => vec![(directory, body().name(name), 0)],
        Opcode::Rename => {
            vec![rename(None, here, there), rename(None, there, here), rename(None, here, (free.directory, "new"))]
        }
        Opcode::Rename2 => vec![
            rename(Some(0), here, there),
            rename(Some(0), there, here),
            rename(Some(libc::RENAME_NOREPLACE), here, (free.directory, "new")),
            rename(Some(libc::RENAME_EXCHANGE), here, there),
            rename(Some(libc::RENAME_EXCHANGE), there, here),
            rename(Some(libc::RENAME_WHITEOUT), here, (free.directory, "new")),
        ],
        Opcode::Create => [libc::O_RDWR, libc::O_WRONLY | libc::O_TRUNC]
            .map(|flags| (directory, body().u32(flags as u32).u32(0o600).zeros(8).name(name), 144))
            .to_vec(),
        _ => Vec::new(),
    }
}

/// All ways in which *opcode* makes the name *new* in *directory*.
pub fn additions(opcode: Opcode, directory: u64, new: &str, free: Target) -> Vec<Request> {
    let there = body().u64(directory);
    match opcode {
        Opcode::Create => vec![
            (directory, body().u32(libc::O_RDWR as u32).u32(0o600).zeros(8).name(new), 144),
            (directory, body().u32(libc::O_EXCL as u32).u32(0o600).zeros(8).name(new), 144),
        ],
        Opcode::Mkdir => vec![(directory, body().u32(0o700).u32(0).name(new), 128)],
        Opcode::Mknod => [libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK]
            .map(|kind| (directory, body().u32(kind | 0o600).zeros(12).name(new), 128))
            .to_vec(),
        Opcode::Symlink => vec![(directory, body().name(new).name("target"), 128)],
        Opcode::Link => vec![(directory, body().u64(free.node).name(new), 128)],
        Opcode::Rename => vec![(free.directory, there.name(free.name).name(new), 0)],
        Opcode::Rename2 => vec![(free.directory, there.zeros(8).name(free.name).name(new), 0)],
        _ => Vec::new(),
    }
}

/// What looks at the target and changes nothing.
pub fn looks(opcode: Opcode, target: Target) -> Vec<Request> {
    let Target { directory, name, node, fh, directory_fh, symlink } = target;
    match opcode {
        Opcode::Readlink => vec![(symlink, body(), 64)],
        Opcode::Lookup => vec![(directory, body().name(name), 128), (directory, body().name("."), 128)],
        Opcode::Getattr => vec![(node, body().zeros(16), 104), (node, body().u32(1).u32(0).u64(fh), 104)],
        Opcode::Setattr => [0, setattr::FH, 1 << 10, setattr::MTIME_NOW]
            .map(|valid| (node, Setattr { valid, fh, ..Setattr::default() }.body(), 104))
            .to_vec(),
        Opcode::Open => vec![(node, body().u32(libc::O_RDONLY as u32).u32(0), 16)],
        Opcode::Opendir => vec![(directory, body().zeros(8), 16)],
        Opcode::Read => vec![(node, handle(fh), 64)],
        Opcode::Readdir | Opcode::Readdirplus => {
            vec![(directory, body().u64(directory_fh).u64(0).u32(4096).zeros(20), 4096)]
        }
        Opcode::Statfs => vec![(node, body(), 80)],
        Opcode::Flush => vec![(node, body().u64(fh).zeros(16), 0)],
        Opcode::Fsync => vec![(node, body().u64(fh).zeros(8), 0)],
        Opcode::Fsyncdir => vec![(directory, body().u64(directory_fh).zeros(8), 0)],
        Opcode::Lseek => vec![(node, body().u64(fh).u64(0).u32(libc::SEEK_DATA as u32).u32(0), 8)],
        Opcode::Syncfs => vec![(directory, body().u64(0), 0)],
        Opcode::Getxattr => vec![(node, body().u32(64).u32(0).name("user.kept"), 64)],
        Opcode::Listxattr => vec![(node, body().u32(64).u32(0), 64)],
        Opcode::Access => vec![(node, body().u32(libc::R_OK as u32).u32(0), 0)],
        Opcode::CopyFileRange => vec![],
        _ => Vec::new(),
    }
}

pub fn is_change(opcode: Opcode, target: Target) -> bool {
    let ways = [
        changes_of_node(opcode, target, target),
        changes_of_name(opcode, target, target),
        additions(opcode, 1, "x", target),
    ];
    ways.iter().any(|requests| !requests.is_empty())
}

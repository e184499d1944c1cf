//! The table of attempts, in groups as they stand in `docs/escape-table.md`.

mod exhaustion;
mod machine;
mod memory;
mod mounts;
mod namespaces;
mod outside;
mod paths;
mod processes;
mod procfs;
mod programs;
mod rights;
mod ruled;
mod share;
mod sockets;
mod surfaces;

use libc::{c_long, AT_EMPTY_PATH, O_PATH};

use crate::facts::Facts;
use crate::kernel::{close, done, open_kept, path, text, word, Result};

/// One thing a compromised worker might try. Each leaves decoys, the jail and the machine usable for the next.
pub struct Attempt {
    pub name: &'static str,
    /// One line for the documentation.
    pub about: &'static str,
    /// Whether what comes of it depends on the kernel's configuration or on the privileges of whoever runs the tests.
    pub varies: bool,
    pub run: fn(&Facts) -> Result<()>,
}

impl Attempt {
    const fn new(name: &'static str, about: &'static str, run: fn(&Facts) -> Result<()>) -> Self {
        Self { name, about, varies: false, run }
    }

    const fn varies(self) -> Self {
        Self { varies: true, ..self }
    }
}

/// Heading and attempts. The first group is what a worker is there for: its attempts must succeed.
pub const GROUPS: &[(&str, &[Attempt])] = &[
    ("The share's own work", share::ALL),
    ("Paths out of what was handed over", paths::ALL),
    ("Every call on a file outside", outside::ALL),
    ("Frozen and hidden parts of the share", ruled::ALL),
    ("procfs", procfs::ALL),
    ("Namespaces", namespaces::ALL),
    ("Other processes", processes::ALL),
    ("Sockets and System V memory", sockets::ALL),
    ("Kernel surfaces nobody honest needs", surfaces::ALL),
    ("The machine as a whole", machine::ALL),
    ("Programs and devices", programs::ALL),
    ("Executable memory", memory::EXECUTABLE),
    ("More rights", rights::ALL),
    ("Memory shared with the supervisor", memory::SHARED),
    ("Exhaustion", exhaustion::ALL),
    ("Mounts and roots", mounts::ALL),
];

fn at(syscall: c_long, directory: i32, name: &str, mode: usize) -> Result<()> {
    done(syscall, &[word(directory), text(&path(name)), mode])
}

/// Through a descriptor, as the worker does it, or else by the name alone.
fn chown(directory: i32, name: &str, id: usize) -> Result<()> {
    let (held, flags) = (open_kept(directory, name, O_PATH)?, word(AT_EMPTY_PATH));
    let result = done(libc::SYS_fchownat, &[word(held), text(c""), id, id, flags]);
    close(held);
    result.or_else(|_| done(libc::SYS_fchownat, &[word(directory), text(&path(name)), id, id, 0]))
}

/// Sets times to now, in the same two ways.
fn touch(directory: i32, name: &str) -> Result<()> {
    let held = open_kept(directory, name, O_PATH)?;
    let result = done(libc::SYS_utimensat, &[word(held), text(c""), 0, word(AT_EMPTY_PATH)]);
    close(held);
    result.or_else(|_| done(libc::SYS_utimensat, &[word(directory), text(&path(name)), 0, 0]))
}

/// A sockaddr_un for *name* and its length.
fn unix_address(name: &str) -> (libc::sockaddr_un, usize) {
    let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as u16, sun_path: [0; 108] };
    for (place, byte) in address.sun_path.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    (address, 2 + name.len())
}

//! What a request costs: its class and its bytes, from its private header and a look at its size.
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use crate::buffers::Buffers;
use crate::fs::MAX_WRITE;
use crate::fuse::abi::{IN_HEADER_BYTES, OUT_HEADER_BYTES, WRITE_IN_BYTES};
use crate::fuse::{Header, Opcode};

/// Where the size lies in `struct fuse_read_in` and `struct fuse_write_in`, and the length in
/// `struct fuse_copy_file_range_in`.
const SIZE: usize = IN_HEADER_BYTES + 16;
const LENGTH: usize = IN_HEADER_BYTES + 40;

/// Requests that wait in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Class {
    Read = 0,
    Write = 1,
    /// All that moves no file data.
    Metadata = 2,
}

impl Class {
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Metadata];

    /// The class of every request, those that never wait and those that nobody knows included.
    pub fn of(opcode: Option<Opcode>) -> Self {
        match opcode {
            Some(Opcode::Read) => Self::Read,
            Some(Opcode::Write | Opcode::CopyFileRange | Opcode::Fallocate) => Self::Write,
            _ => Self::Metadata,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Metadata => "metadata operation",
        }
    }
}

/// One operation of a class, and the bytes it asks to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    pub class: Class,
    pub bytes: u64,
}

impl Cost {
    /// `None` for what never waits: what frees things, what ends things, and what a guest cannot do without.
    ///
    /// The guest can change the size after this look; what was really moved is charged in the end.
    pub fn of(header: &Header, request: &Buffers<'_>, reply: &Buffers<'_>) -> Option<Self> {
        let opcode = Opcode::from_number(header.opcode);
        let bytes = match opcode {
            Some(
                Opcode::Init
                | Opcode::Destroy
                | Opcode::Forget
                | Opcode::BatchForget
                | Opcode::Interrupt
                | Opcode::Release
                | Opcode::Releasedir
                | Opcode::Flush
                | Opcode::Statfs,
            ) => return None,
            Some(Opcode::Read) => size(request).min(room(reply.len(), OUT_HEADER_BYTES)),
            Some(Opcode::Write) => size(request).min(room(request.len(), IN_HEADER_BYTES + WRITE_IN_BYTES)),
            Some(Opcode::CopyFileRange) => length(request),
            _ => 0,
        };
        Some(Self { class: Class::of(opcode), bytes: bytes.min(MAX_WRITE.into()) })
    }
}

fn room(bytes: usize, header: usize) -> u64 {
    bytes.saturating_sub(header) as u64
}

fn size(request: &Buffers<'_>) -> u64 {
    let mut size = [0; 4];
    request.read_at(SIZE, &mut size);
    u32::from_le_bytes(size).into()
}

fn length(request: &Buffers<'_>) -> u64 {
    let mut length = [0; 8];
    request.read_at(LENGTH, &mut length);
    u64::from_le_bytes(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(opcode: u32, body: &[u8]) -> Option<Cost> {
        let mut request = vec![0; IN_HEADER_BYTES];
        request.extend(body);
        let length = request.len() as u32;
        let header = Header { length, opcode, unique: 1, node: 1, uid: 0, gid: 0 };
        let mut reply = vec![0; 1 << 16];
        Cost::of(&header, &Buffers::of(&mut request), &Buffers::of(&mut reply))
    }

    fn sized(size: u32, rest: usize) -> Vec<u8> {
        [&[0; 16][..], &size.to_le_bytes(), &vec![0; rest]].concat()
    }

    #[test]
    fn reads_and_writes_cost_what_they_ask_for_and_have_room_for() {
        let read = |bytes| Some(Cost { class: Class::Read, bytes });
        assert_eq!(cost(Opcode::Read as u32, &sized(4096, 20)), read(4096));
        assert_eq!(cost(Opcode::Read as u32, &sized(u32::MAX, 20)), read((1 << 16) - 16));
        assert_eq!(cost(Opcode::Read as u32, &[]), read(0));
        let write = |bytes| Some(Cost { class: Class::Write, bytes });
        assert_eq!(cost(Opcode::Write as u32, &sized(100, 20 + 100)), write(100));
        assert_eq!(cost(Opcode::Write as u32, &sized(u32::MAX, 20 + 100)), write(100));
        let copy = [&[0; 40][..], &7u64.to_le_bytes(), &[0; 8]].concat();
        assert_eq!(cost(Opcode::CopyFileRange as u32, &copy), write(7));
        assert_eq!(cost(Opcode::Fallocate as u32, &[0; 32]), write(0));
    }

    #[test]
    fn all_else_is_one_metadata_operation_unless_it_never_waits() {
        use Opcode::{BatchForget, Destroy, Flush, Forget, Init, Interrupt, Release, Releasedir, Statfs};
        let free = [Init, Destroy, Forget, BatchForget, Interrupt, Release, Releasedir, Flush, Statfs];
        let moving = [Opcode::Read, Opcode::Write, Opcode::CopyFileRange, Opcode::Fallocate];
        for number in 0..100 {
            let metadata = Some(Cost { class: Class::Metadata, bytes: 0 });
            match Opcode::from_number(number) {
                Some(opcode) if free.contains(&opcode) => assert_eq!(cost(number, &[]), None),
                Some(opcode) if moving.contains(&opcode) => assert_ne!(cost(number, &[]), metadata),
                _ => assert_eq!(cost(number, &[]), metadata, "{number}"),
            }
        }
    }
}

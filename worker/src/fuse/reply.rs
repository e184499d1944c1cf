//! Encoding of reply bodies into a reused buffer.

use std::time::Duration;

use super::abi::{DIRENT_BYTES, OUT_HEADER_BYTES};

/// How long the guest may believe what it was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validity {
    pub entry: Duration,
    pub attr: Duration,
}

/// `struct fuse_attr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    pub ino: u64,
    pub size: u64,
    pub blocks: u64,
    pub atime: (u64, u32),
    pub mtime: (u64, u32),
    pub ctime: (u64, u32),
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub blksize: u32,
    pub flags: u32,
}

/// Appends little-endian structures; keeps its allocation between requests.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    pub fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bytes(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
    }

    pub fn zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    fn attr(&mut self, attr: &Attr) {
        for value in [attr.ino, attr.size, attr.blocks, attr.atime.0, attr.mtime.0, attr.ctime.0] {
            self.u64(value);
        }
        for value in [attr.atime.1, attr.mtime.1, attr.ctime.1, attr.mode, attr.nlink] {
            self.u32(value);
        }
        for value in [attr.uid, attr.gid, attr.rdev, attr.blksize, attr.flags] {
            self.u32(value);
        }
    }

    /// `struct fuse_attr_out`.
    pub fn attr_out(&mut self, attr: &Attr, validity: Validity) {
        self.u64(validity.attr.as_secs());
        self.u32(validity.attr.subsec_nanos());
        self.zeros(4);
        self.attr(attr);
    }

    /// `struct fuse_entry_out`. Node 0 means: here are the attributes, but nothing was looked up.
    pub fn entry(&mut self, node: u64, attr: &Attr, validity: Validity) {
        self.u64(node);
        self.u64(0);
        self.u64(validity.entry.as_secs());
        self.u64(validity.attr.as_secs());
        self.u32(validity.entry.subsec_nanos());
        self.u32(validity.attr.subsec_nanos());
        self.attr(attr);
    }

    /// `struct fuse_open_out`.
    pub fn open(&mut self, fh: u64, flags: u32) {
        self.u64(fh);
        self.u32(flags);
        self.u32(0);
    }

    /// `struct fuse_dirent`, padded to 8 bytes.
    pub fn dirent(&mut self, ino: u64, next: u64, kind: u8, name: &[u8]) {
        self.u64(ino);
        self.u64(next);
        self.u32(name.len() as u32);
        self.u32(u32::from(kind));
        self.bytes(name);
        self.zeros(dirent_bytes(name.len()) - DIRENT_BYTES - name.len());
    }
}

/// Size of a directory entry whose name has *length* bytes.
pub fn dirent_bytes(length: usize) -> usize {
    (DIRENT_BYTES + length).next_multiple_of(8)
}

/// `struct fuse_out_header` for *body* bytes after it; *errno* is positive, or 0 for success.
pub fn header(unique: u64, errno: i32, body: usize) -> [u8; OUT_HEADER_BYTES] {
    let mut bytes = [0; OUT_HEADER_BYTES];
    let length = (OUT_HEADER_BYTES + body) as u32;
    let fields = length.to_le_bytes().into_iter().chain((-errno).to_le_bytes()).chain(unique.to_le_bytes());
    for (target, source) in bytes.iter_mut().zip(fields) {
        *target = source;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::abi::{ATTR_BYTES, ENTRY_BYTES, OPEN_BYTES};
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_protocol() {
        let validity = Validity::default();
        let sizes = |encode: &dyn Fn(&mut Encoder)| {
            let mut encoder = Encoder::default();
            encode(&mut encoder);
            encoder.len()
        };
        assert_eq!(sizes(&|e| e.entry(1, &Attr::default(), validity)), ENTRY_BYTES);
        assert_eq!(sizes(&|e| e.attr_out(&Attr::default(), validity)), ATTR_BYTES);
        assert_eq!(sizes(&|e| e.open(1, 0)), OPEN_BYTES);
        assert_eq!(sizes(&|e| e.dirent(1, 2, 4, b"12345678")), 32);
        assert_eq!(sizes(&|e| e.dirent(1, 2, 4, b"123456789")), 40);
    }

    #[test]
    fn an_error_travels_negated_in_the_header() {
        let bytes = header(7, libc::ENOENT, 0);
        assert_eq!(bytes, [16, 0, 0, 0, 254, 255, 255, 255, 7, 0, 0, 0, 0, 0, 0, 0]);
    }
}

//! Decoding: the header and the fields after it, from a private copy that the guest can no longer change.

use std::ffi::CStr;

use super::abi::IN_HEADER_BYTES;
use crate::buffers::Buffers;

/// The bytes do not form the request that their opcode names; says what is wrong with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// `struct fuse_in_header`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub length: u32,
    pub opcode: u32,
    pub unique: u64,
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
}

impl Header {
    /// `None` when fewer bytes than a header were sent: there is nobody to answer then.
    pub fn read(request: &Buffers<'_>) -> Option<Self> {
        let mut bytes = [0; IN_HEADER_BYTES];
        if request.read_at(0, &mut bytes) < IN_HEADER_BYTES {
            return None;
        }
        let mut fields = Fields::new(&bytes);
        Some(Self {
            length: fields.u32().ok()?,
            opcode: fields.u32().ok()?,
            unique: fields.u64().ok()?,
            node: fields.u64().ok()?,
            uid: fields.u32().ok()?,
            gid: fields.u32().ok()?,
        })
    }

    /// Bytes after the header, by the header's own account and checked against what was sent.
    pub fn body_length(&self, request: &Buffers<'_>) -> Result<usize, Malformed> {
        let length = self.length as usize;
        if length < IN_HEADER_BYTES || length > request.len() {
            return Err(Malformed("the header's length is not the request's"));
        }
        Ok(length - IN_HEADER_BYTES)
    }
}

/// Takes fields off the front of a request body.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'b> {
    rest: &'b [u8],
}

impl<'b> Fields<'b> {
    pub fn new(body: &'b [u8]) -> Self {
        Self { rest: body }
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'b [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed("the request ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.bytes(4)?.first_chunk().ok_or(Malformed("the request ends too early"))?;
        Ok(u32::from_le_bytes(*bytes))
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.bytes(8)?.first_chunk().ok_or(Malformed("the request ends too early"))?;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// A NUL-terminated string; its content is judged by whoever uses it.
    pub fn string(&mut self) -> Result<&'b CStr, Malformed> {
        let string = CStr::from_bytes_until_nul(self.rest).map_err(|_| Malformed("a name has no end"))?;
        self.bytes(string.count_bytes() + 1)?;
        Ok(string)
    }

    /// To be called after the last string: what follows could only be a second name that nobody looked at.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed("bytes after the last name"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_without_a_nul_is_malformed() {
        assert!(Fields::new(b"abc").string().is_err());
    }

    #[test]
    fn a_second_name_behind_an_inner_nul_is_noticed() {
        let mut fields = Fields::new(b"a\0b\0");
        assert_eq!(fields.string().map(CStr::to_bytes), Ok(&b"a"[..]));
        assert!(fields.end().is_err());
    }

    #[test]
    fn a_header_longer_than_the_request_is_malformed() {
        let mut memory = [0; 48];
        memory[0..4].copy_from_slice(&49u32.to_le_bytes());
        let request = Buffers::of(&mut memory);
        let header = Header::read(&request);
        assert!(header.is_some_and(|header| header.body_length(&request).is_err()));
    }
}

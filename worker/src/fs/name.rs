//! Names from requests: nothing but a single component ever reaches the host.

use std::ffi::CStr;
use std::ops::Deref;

use super::failure::{refuse, Failure};
use crate::fuse::abi::MAX_NAME_BYTES;

/// One component: not empty, no '/', no NUL, not '.' or '..', at most 255 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Name<'b>(&'b CStr);

impl<'b> Name<'b> {
    /// EINVAL or ENAMETOOLONG for what is no component.
    pub fn component(string: &'b CStr) -> Result<Self, Failure> {
        let bytes = string.to_bytes();
        if bytes.len() > MAX_NAME_BYTES {
            return refuse(libc::ENAMETOOLONG);
        }
        if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
            return refuse(libc::EINVAL);
        }
        Ok(Self(string))
    }
}

impl Deref for Name<'_> {
    type Target = CStr;

    fn deref(&self) -> &CStr {
        self.0
    }
}

/// A name copied out of the tables, with its NUL.
pub struct NameCopy {
    bytes: [u8; MAX_NAME_BYTES + 1],
}

impl NameCopy {
    pub fn of(name: &[u8]) -> Self {
        let mut bytes = [0; MAX_NAME_BYTES + 1];
        for (target, &byte) in bytes.iter_mut().take(MAX_NAME_BYTES).zip(name) {
            *target = byte;
        }
        Self { bytes }
    }

    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_components_are_names() {
        for hostile in [c"", c".", c"..", c"a/b", c"/", c"/etc", c"../x", c"x/"] {
            assert_eq!(Name::component(hostile).err().map(Failure::errno), Some(libc::EINVAL), "{hostile:?}");
        }
        for fine in [c"a", c"...", c".a", c"..a", c"\xff\xfe", c" "] {
            assert!(Name::component(fine).is_ok(), "{fine:?}");
        }
    }

    #[test]
    fn names_end_at_255_bytes() {
        let long = std::ffi::CString::new(vec![b'x'; 256]).expect("no NUL");
        assert_eq!(Name::component(&long).err().map(Failure::errno), Some(libc::ENAMETOOLONG));
        let fits = std::ffi::CString::new(vec![b'x'; 255]).expect("no NUL");
        assert!(Name::component(&fits).is_ok());
        assert_eq!(NameCopy::of(fits.to_bytes()).as_c_str(), fits.as_c_str());
    }
}

//! Scattered guest memory: the readable or the writable half of one descriptor chain.

use std::marker::PhantomData;
use std::ptr;

/// An ordered list of memory ranges that belong to the guest.
///
/// The guest may change the bytes at any time: everything is copied out once and judged in the copy, and data that
/// is only carried (READ, WRITE) is handed to the kernel as `iovec`s without being looked at.
///
/// `'m` is the life of the mapping behind the ranges.
#[derive(Clone, Debug, Default)]
pub struct Buffers<'m> {
    ranges: Vec<libc::iovec>,
    bytes: usize,
    mapping: PhantomData<&'m ()>,
}

// SAFETY: the ranges are only ever used for byte copies and system calls, both of which any thread may do while the
// mapping 'm lives; no Rust reference to the bytes is ever made.
unsafe impl Send for Buffers<'_> {}

impl<'m> Buffers<'m> {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a range. Empty ranges are dropped.
    ///
    /// # Safety
    /// `[address, address + length)` must stay mapped for `'m`, readable (and writable if the buffers are written),
    /// and no Rust reference may exist to it while these buffers live.
    pub unsafe fn push(&mut self, address: *mut u8, length: usize) {
        if length > 0 {
            self.ranges.push(libc::iovec { iov_base: address.cast(), iov_len: length });
            self.bytes = self.bytes.saturating_add(length);
        }
    }

    /// Borrows plain memory as buffers: how tests call the file system without a guest.
    pub fn of(memory: &'m mut [u8]) -> Self {
        let mut buffers = Self::new();
        // SAFETY: the exclusive borrow lasts for 'm.
        unsafe { buffers.push(memory.as_mut_ptr(), memory.len()) };
        buffers
    }

    /// Total number of bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The ranges, for `preadv2` and `pwritev2`.
    pub fn iovecs(&self) -> &[libc::iovec] {
        &self.ranges
    }

    /// Appends bytes `[offset, offset + length)` as at most *most* ranges to *target*, for vectored system calls.
    pub fn window(&self, offset: usize, length: usize, most: usize, target: &mut Vec<libc::iovec>) {
        let (mut skip, mut left) = (offset, length);
        for range in &self.ranges {
            if left == 0 || target.len() >= most {
                break;
            }
            if skip >= range.iov_len {
                skip -= range.iov_len;
                continue;
            }
            let part = (range.iov_len - skip).min(left);
            // SAFETY: skip < iov_len, so the address stays inside the range.
            let iov_base = unsafe { range.iov_base.cast::<u8>().add(skip) }.cast();
            target.push(libc::iovec { iov_base, iov_len: part });
            left -= part;
            skip = 0;
        }
    }

    /// Forgets the ranges and keeps the allocation.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.bytes = 0;
    }

    /// Copies bytes from `offset` on into *target*; returns how many there were.
    pub fn read_at(&self, offset: usize, target: &mut [u8]) -> usize {
        self.each(offset, target.len(), |address, done, part| {
            // SAFETY: *address* has *part* mapped bytes (push), *target* has that many left from *done*.
            unsafe { ptr::copy_nonoverlapping(address, target.as_mut_ptr().add(done), part) };
        })
    }

    /// Copies *source* to the bytes from `offset` on; returns how many fitted.
    pub fn write_at(&self, offset: usize, source: &[u8]) -> usize {
        self.each(offset, source.len(), |address, done, part| {
            // SAFETY: *address* has *part* mapped writable bytes (push), *source* has that many left from *done*.
            unsafe { ptr::copy_nonoverlapping(source.as_ptr().add(done), address, part) };
        })
    }

    /// Calls *act*(address, bytes done before, bytes here) for each contiguous part of `[offset, offset + length)`.
    fn each(&self, offset: usize, length: usize, mut act: impl FnMut(*mut u8, usize, usize)) -> usize {
        let (mut skip, mut done) = (offset, 0);
        for range in &self.ranges {
            if done == length {
                break;
            }
            if skip >= range.iov_len {
                skip -= range.iov_len;
                continue;
            }
            let part = (range.iov_len - skip).min(length - done);
            // SAFETY: skip < iov_len, so the address stays inside the range.
            act(unsafe { range.iov_base.cast::<u8>().add(skip) }, done, part);
            done += part;
            skip = 0;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_copies_cross_range_borders() {
        let (mut one, mut two) = (*b"abcd", *b"efgh");
        let mut buffers = Buffers::new();
        // SAFETY: both arrays outlive the buffers and are not touched otherwise meanwhile.
        unsafe {
            buffers.push(one.as_mut_ptr(), 4);
            buffers.push(two.as_mut_ptr(), 4);
        }
        let mut out = [0; 5];
        assert_eq!(buffers.read_at(2, &mut out), 5);
        assert_eq!(&out, b"cdefg");
        assert_eq!(buffers.read_at(7, &mut out), 1);
        assert_eq!(buffers.read_at(8, &mut out), 0);
        let mut ranges = Vec::new();
        buffers.window(3, 2, 8, &mut ranges);
        assert_eq!(ranges.iter().map(|range| range.iov_len).collect::<Vec<_>>(), [1, 1]);
        ranges.clear();
        buffers.window(3, 2, 1, &mut ranges);
        assert_eq!(ranges.len(), 1);
        assert_eq!(buffers.write_at(3, b"XY"), 2);
        assert_eq!(buffers.write_at(7, b"Zz"), 1);
        assert_eq!((&one, &two), (b"abcX", b"YfgZ"));
    }
}

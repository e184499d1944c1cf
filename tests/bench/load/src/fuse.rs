//! The few FUSE messages the load consists of (include/uapi/linux/fuse.h).

use std::io;

use crate::driver::{Driver, Request};

pub const ROOT: u64 = 1;
const OPEN_FLAGS: u32 = libc::O_RDWR as u32;

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn name(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |part| u64::from_le_bytes(part.try_into().expect("eight bytes")))
}

fn request(opcode: u32, nodeid: u64, arguments: Vec<u8>, answer: usize) -> Request {
    Request { opcode, nodeid, arguments, answer, ..Request::default() }
}

/// FUSE_INIT 7.38 with the flags a 6.x kernel offers that matter for these loads.
pub fn init() -> Request {
    // ASYNC_READ, ATOMIC_O_TRUNC, BIG_WRITES, DO_READDIRPLUS, PARALLEL_DIROPS, MAX_PAGES
    let flags = 1 | 1 << 3 | 1 << 5 | 1 << 13 | 1 << 18 | 1 << 22;
    let mut arguments = words(&[7, 38, 1 << 20, flags]);
    arguments.extend_from_slice(&[0; 48]);
    request(26, 0, arguments, 64)
}

pub fn lookup(parent: u64, text: &str) -> Request {
    request(1, parent, name(text), 128)
}

pub fn getattr(nodeid: u64) -> Request {
    request(3, nodeid, vec![0; 16], 104)
}

pub fn open(nodeid: u64) -> Request {
    request(14, nodeid, words(&[OPEN_FLAGS, 0]), 16)
}

pub fn opendir(nodeid: u64) -> Request {
    request(27, nodeid, words(&[0, 0]), 16)
}

pub fn release(nodeid: u64, fh: u64) -> Request {
    request(18, nodeid, [fh.to_le_bytes().to_vec(), vec![0; 16]].concat(), 0)
}

pub fn releasedir(nodeid: u64, fh: u64) -> Request {
    Request { opcode: 29, ..release(nodeid, fh) }
}

pub fn flush(nodeid: u64, fh: u64) -> Request {
    request(25, nodeid, [fh.to_le_bytes().to_vec(), vec![0; 16]].concat(), 0)
}

fn create(parent: u64, text: &str) -> Request {
    let arguments = [words(&[OPEN_FLAGS | libc::O_CREAT as u32, 0o100_644, 0o22, 0]), name(text)].concat();
    request(35, parent, arguments, 144)
}

pub fn unlink(parent: u64, text: &str) -> Request {
    request(10, parent, name(text), 0)
}

pub fn mkdir(parent: u64, text: &str) -> Request {
    request(9, parent, [words(&[0o755, 0o22]), name(text)].concat(), 128)
}

pub fn rmdir(parent: u64, text: &str) -> Request {
    request(11, parent, name(text), 0)
}

pub fn rename(parent: u64, from: &str, to: &str) -> Request {
    request(12, parent, [parent.to_le_bytes().to_vec(), name(from), name(to)].concat(), 0)
}

pub fn read(nodeid: u64, fh: u64, offset: u64, size: usize) -> Request {
    Request { data_in: size, ..request(15, nodeid, transfer(fh, offset, size), 0) }
}

pub fn write(nodeid: u64, fh: u64, offset: u64, size: usize) -> Request {
    Request { data_out: size, ..request(16, nodeid, transfer(fh, offset, size), 8) }
}

pub fn readdirplus(nodeid: u64, fh: u64, offset: u64, size: usize) -> Request {
    Request { opcode: 44, ..read(nodeid, fh, offset, size) }
}

fn transfer(fh: u64, offset: u64, size: usize) -> Vec<u8> {
    let mut arguments = [fh.to_le_bytes(), offset.to_le_bytes()].concat();
    arguments.extend(words(&[size as u32, 0]));
    arguments.extend_from_slice(&[0; 16]);
    arguments
}

/// Drops one lookup of *nodeid*. The request has no reply; the daemon only gives the chain back.
pub fn forget(driver: &mut Driver, nodeid: u64) -> io::Result<()> {
    driver.ask(&request(2, nodeid, 1u64.to_le_bytes().to_vec(), 0)).map(drop)
}

/// Sends *request*, and makes an error of an answer that carries one.
pub fn ask(driver: &mut Driver, request: &Request) -> io::Result<Vec<u8>> {
    let (error, bytes) = driver.ask(request)?;
    if error != 0 {
        let what = io::Error::from_raw_os_error(error);
        return Err(io::Error::other(format!("FUSE opcode {}: {what}", request.opcode)));
    }
    Ok(bytes)
}

/// The node that an answer with an entry names.
pub fn nodeid_of(driver: &mut Driver, request: &Request) -> io::Result<u64> {
    Ok(u64_at(&ask(driver, request)?, 0))
}

/// The handle an OPEN or OPENDIR answers with.
pub fn handle_of(driver: &mut Driver, request: &Request) -> io::Result<u64> {
    Ok(u64_at(&ask(driver, request)?, 0))
}

/// The node and the handle a CREATE answers with: an entry of 128 bytes, then what OPEN says.
pub fn created(driver: &mut Driver, parent: u64, text: &str) -> io::Result<(u64, u64)> {
    let bytes = ask(driver, &create(parent, text))?;
    Ok((u64_at(&bytes, 0), u64_at(&bytes, 128)))
}

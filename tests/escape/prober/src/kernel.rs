//! System calls without anything in between: an attempt must reach the kernel exactly as written.

use std::ffi::{CStr, CString};

/// What became of an attempt.
#[derive(Clone, Copy)]
pub enum Outcome {
    Allowed,
    Denied(i32),
    Killed(i32),
}

/// An errno, or what a successful call returned.
pub type Result<T = usize> = std::result::Result<T, i32>;

/// Reported where an attempt could not even be made: its preparation failed in an unexpected way.
pub const UNPREPARED: i32 = 250;
/// Reported where this machine lacks what the attempt is about.
pub const ABSENT: i32 = 251;

/// Makes system call *number*. Pointers are passed as addresses of values that live through the call.
pub fn call(number: libc::c_long, arguments: &[usize]) -> Result {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: every attempt passes addresses of its own live buffers with their sizes, and none unmaps memory.
    let result =
        unsafe { libc::syscall(number, argument(0), argument(1), argument(2), argument(3), argument(4), argument(5)) };
    usize::try_from(result).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap_or(UNPREPARED))
}

/// As `call`, where only success matters.
pub fn done(number: libc::c_long, arguments: &[usize]) -> Result<()> {
    call(number, arguments).map(drop)
}

/// As `done` for a call with harmless, impossible arguments: *errnos* are what it says once permission was given.
pub fn permitted(number: libc::c_long, arguments: &[usize], errnos: &[i32]) -> Result<()> {
    match done(number, arguments) {
        Err(errno) if errnos.contains(&errno) => Ok(()),
        result => result,
    }
}

/// As `done` for a call that returns a descriptor.
pub fn opened(number: libc::c_long, arguments: &[usize]) -> Result<()> {
    close(call(number, arguments)? as i32);
    Ok(())
}

/// A descriptor, flag or negative constant as a register.
pub fn word(value: i32) -> usize {
    value as isize as usize
}

/// The address of *text*, which the caller keeps.
pub fn text(text: &CStr) -> usize {
    text.as_ptr() as usize
}

/// The address of *value*, which the caller keeps.
pub fn address<T>(value: &T) -> usize {
    std::ptr::from_ref(value) as usize
}

pub fn path(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// Opens and closes again: only whether it is possible matters.
pub fn open(directory: i32, name: &str, flags: i32) -> Result<()> {
    close(open_kept(directory, name, flags)?);
    Ok(())
}

pub fn open_kept(directory: i32, name: &str, flags: i32) -> Result<i32> {
    // struct open_how: flags, mode, resolve. The kernel takes no mode with an open that makes nothing.
    let how = [flags as u64, if flags & libc::O_CREAT != 0 { 0o600 } else { 0 }, 0];
    let name = path(name);
    let arguments = [word(directory), text(&name), address(&how), size_of_val(&how)];
    Ok(call(libc::SYS_openat2, &arguments)? as i32)
}

pub fn close(fd: i32) {
    let _ = call(libc::SYS_close, &[word(fd)]);
}

pub fn is_open(fd: i32) -> bool {
    call(libc::SYS_fcntl, &[word(fd), word(libc::F_GETFL)]).is_ok()
}

pub fn send(fd: i32, bytes: &[u8]) {
    let _ = call(libc::SYS_sendto, &[word(fd), bytes.as_ptr() as usize, bytes.len(), word(libc::MSG_NOSIGNAL)]);
}

/// What one read from the start returns, at most 64 KiB.
pub fn read(fd: i32) -> Vec<u8> {
    let mut bytes = vec![0; 64 * 1024];
    let length = call(libc::SYS_pread64, &[word(fd), bytes.as_mut_ptr() as usize, bytes.len(), 0]).unwrap_or(0);
    bytes.truncate(length);
    bytes
}

pub fn wait_for_end_of_file(fd: i32) {
    let mut bytes = [0; 8];
    while call(libc::SYS_read, &[word(fd), bytes.as_mut_ptr() as usize, bytes.len()]) != Ok(0) {}
}

/// Loads *program*, an array of struct sock_filter, over what is already there, as the worker does after its start-up.
pub fn load_filter(program: &[u8]) -> Result<()> {
    let instructions = program.len() / size_of::<libc::sock_filter>();
    let header = libc::sock_fprog { len: instructions as u16, filter: program.as_ptr().cast_mut().cast() };
    done(
        libc::SYS_seccomp,
        &[libc::SECCOMP_SET_MODE_FILTER as usize, libc::SECCOMP_FILTER_FLAG_LOG as usize, address(&header)],
    )
}

/// Runs *attempt* in a child made as the keeper makes its worker, and judges by how that one ended.
///
/// A core file is what an attempt that crashes is after; one that merely dies of the filter leaves none.
pub fn in_child(attempt: impl FnOnce() -> Result<()>) -> Outcome {
    let flags = word(libc::CLONE_FILES | libc::SIGCHLD);
    let child = match call(libc::SYS_clone, &[flags]) {
        Err(errno) => return Outcome::Denied(errno),
        Ok(child) => child,
    };
    if child == 0 {
        end(attempt().err().unwrap_or(0));
    }
    let mut status = 0i32;
    let _ = call(libc::SYS_wait4, &[child, &raw mut status as usize]);
    if libc::WIFSIGNALED(status) {
        let crashed = libc::WTERMSIG(status) == libc::SIGSEGV;
        return if crashed && libc::WCOREDUMP(status) {
            Outcome::Allowed
        } else {
            Outcome::Killed(libc::WTERMSIG(status))
        };
    }
    match libc::WEXITSTATUS(status) {
        0 => Outcome::Allowed,
        errno => Outcome::Denied(errno),
    }
}

/// Ends the process with *code*.
pub fn end(code: i32) {
    let _ = call(libc::SYS_exit_group, &[word(code)]);
}

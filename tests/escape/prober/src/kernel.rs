//! System calls without anything in between: an attempt must reach the kernel exactly as written.

use std::ffi::CString;

/// What became of an attempt. 0 stands for success where an errno is expected.
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

/// Makes system call *number*. Pointers are passed as addresses of values that live through the call.
pub fn call(number: libc::c_long, arguments: &[usize]) -> Result {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: every attempt passes addresses of its own live buffers with their sizes, and none unmaps memory.
    let result =
        unsafe { libc::syscall(number, argument(0), argument(1), argument(2), argument(3), argument(4), argument(5)) };
    usize::try_from(result).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap_or(UNPREPARED))
}

/// A descriptor, flag or negative constant as a register.
pub fn word(value: i32) -> usize {
    value as isize as usize
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
    let name = path(name);
    // struct open_how: flags, mode, resolve. The kernel takes no mode with an open that makes nothing.
    let how = [flags as u64, if flags & libc::O_CREAT != 0 { 0o600 } else { 0 }, 0];
    let arguments = [word(directory), name.as_ptr() as usize, how.as_ptr() as usize, size_of_val(&how)];
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

/// Runs *attempt* in a child made as the keeper makes its worker, and judges by how that one ended.
pub fn in_child(attempt: impl FnOnce() -> Result<()>) -> Outcome {
    let flags = word(libc::CLONE_FILES | libc::SIGCHLD);
    let child = match call(libc::SYS_clone, &[flags]) {
        Err(errno) => return Outcome::Denied(errno),
        Ok(child) => child,
    };
    if child == 0 {
        let code = attempt().err().unwrap_or(0);
        let _ = call(libc::SYS_exit_group, &[word(code)]);
    }
    let mut status = 0i32;
    let _ = call(libc::SYS_wait4, &[child, &raw mut status as usize]);
    if libc::WIFSIGNALED(status) {
        return Outcome::Killed(libc::WTERMSIG(status));
    }
    match libc::WEXITSTATUS(status) {
        0 => Outcome::Allowed,
        errno => Outcome::Denied(errno),
    }
}

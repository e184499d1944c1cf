//! `virtiofs-worker SHARE`: started inside a finished jail on fixed descriptors (ipc/README.md).

// The standard runtime's own main would look for the stack's limits in /proc/self/maps. This process has no paths to
// look at, and asks for none: the C runtime calls us directly.
#![no_main]

use std::ffi::{c_char, c_int};

/// Entry from the C runtime. The one argument, the share's name, is for `ps`; the configuration says the same.
///
/// Never returns: the exit status of the process is the keeper's report.
#[no_mangle]
pub extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    virtiofs_worker::keeper::main()
}

//! A fake worker that tries to leave the jail it is started in.
//!
//! It starts on the worker's documented descriptors. The configuration memfd holds lines `key=value` with what a real
//! attacker would have found out: where the secret lies, the supervisor's pid, a file handle. Each attempt runs in a
//! process of its own, since the filter kills for some, and is reported as one JSON object per message on the control
//! socket. Afterwards the prober stays until that socket closes, so that it can be looked at from outside.

// Like the worker it is entered from the C runtime, so that the filter need not allow what std's own main would call.
#![no_main]

mod attempts;
mod kernel;

use std::collections::HashMap;
use std::ffi::{c_char, c_int};

use kernel::Outcome;

const CONTROL: i32 = 3;
const CONFIG: i32 = 4;
const FIRST_FREE: i32 = 9;
const MOST_DESCRIPTORS: i32 = 64;

/// What the test tells: see `tests/escape/scenarios.py`.
pub type Facts = HashMap<String, String>;

/// Entry from the C runtime.
#[no_mangle]
pub extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    // Started once more by one of its own attempts: that this runs at all is what the attempt wanted to know.
    if std::env::args().next().as_deref() == Some("virtiofs-worker") {
        probe();
    }
    0
}

fn probe() {
    let facts = read_facts();
    tell(&format!("{{\"descriptors\": {:?}}}", open_descriptors()));
    for (name, attempt) in attempts::ALL {
        let outcome = kernel::in_child(|| attempt(&facts));
        // The child shared the descriptor table, and may have been killed before it closed what it opened.
        (FIRST_FREE..MOST_DESCRIPTORS).filter(|fd| kernel::is_open(*fd)).for_each(kernel::close);
        tell(&report(name, outcome));
    }
    tell("{\"done\": true}");
    kernel::wait_for_end_of_file(CONTROL);
}

fn read_facts() -> Facts {
    String::from_utf8_lossy(&kernel::read(CONFIG))
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn open_descriptors() -> Vec<i32> {
    (0..MOST_DESCRIPTORS).filter(|fd| kernel::is_open(*fd)).collect()
}

fn report(name: &str, outcome: Outcome) -> String {
    match outcome {
        Outcome::Allowed => format!("{{\"attempt\": \"{name}\", \"outcome\": \"allowed\"}}"),
        Outcome::Denied(errno) => format!("{{\"attempt\": \"{name}\", \"outcome\": \"denied\", \"errno\": {errno}}}"),
        Outcome::Killed(signal) => {
            format!("{{\"attempt\": \"{name}\", \"outcome\": \"killed\", \"signal\": {signal}}}")
        }
    }
}

fn tell(message: &str) {
    kernel::send(CONTROL, message.as_bytes());
}

//! A fake worker that tries to leave the jail it is started in.
//!
//! It starts on the worker's documented descriptors. The configuration memfd holds facts instead of JSON. Each attempt
//! runs in a process of its own, since the filter kills for some; that process is as owned as a worker after start-up:
//! it has loaded the second filter of one of the worker's roles. The threads of a worker share their memory, so one can
//! make the other's calls: an attempt that one role's filter stops is made again as the next. Each is reported as
//! one JSON object per message on the control socket. Afterwards the prober stays until that socket closes, so that it
//! can be looked at from outside.

// Like the worker it is entered from the C runtime, so that the filter need not allow what std's own main would call.
#![no_main]

mod attempts;
mod facts;
mod kernel;

use std::ffi::{c_char, c_int};

use attempts::Attempt;
use facts::Facts;
use kernel::{Outcome, ABSENT};

const NULL: i32 = 0;
const CONTROL: i32 = 3;
const CONFIG: i32 = 4;
const STATISTICS: i32 = 5;
const ARENA: i32 = 6;
const SHARE: i32 = 7;
const PROC: i32 = 8;
const BINARY: i32 = 9;
const MOST_DESCRIPTORS: i32 = 64;

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
    let facts = Facts::read();
    let own = open_descriptors();
    tell(&format!("{{\"descriptors\": {own:?}}}"));
    // Told nothing, it is only there to be looked at.
    let groups = if facts.is_empty() { &[] } else { attempts::GROUPS };
    for (group, table) in groups {
        for attempt in *table {
            let outcome = made(attempt, &facts, &own);
            tell(&report(group, attempt, outcome));
        }
    }
    tell("{\"done\": true}");
    kernel::wait_for_end_of_file(CONTROL);
}

/// What came of *attempt* in the role that got furthest.
fn made(attempt: &Attempt, facts: &Facts, own: &[i32]) -> Outcome {
    let mut answers = Vec::new();
    for filter in facts.filters() {
        let outcome = kernel::in_child(|| {
            if !filter.is_empty() {
                kernel::load_filter(&filter).map_err(|_| kernel::UNPREPARED)?;
            }
            (attempt.run)(facts)
        });
        // The child shared the descriptor table, and may have been killed before it closed what it opened.
        open_descriptors().into_iter().filter(|fd| !own.contains(fd)).for_each(kernel::close);
        if matches!(outcome, Outcome::Allowed) {
            return outcome;
        }
        answers.push(outcome);
    }
    // One role may lack the means to prepare what another could.
    let unprepared = Outcome::Denied(kernel::UNPREPARED);
    answers.into_iter().find(|outcome| !matches!(outcome, Outcome::Denied(kernel::UNPREPARED))).unwrap_or(unprepared)
}

fn open_descriptors() -> Vec<i32> {
    (0..MOST_DESCRIPTORS).filter(|fd| kernel::is_open(*fd)).collect()
}

fn report(group: &str, attempt: &Attempt, outcome: Outcome) -> String {
    let ended = match outcome {
        Outcome::Allowed => "\"outcome\": \"allowed\"".to_owned(),
        Outcome::Denied(ABSENT) => "\"outcome\": \"absent\"".to_owned(),
        Outcome::Denied(errno) => format!("\"outcome\": \"denied\", \"errno\": {errno}"),
        Outcome::Killed(signal) => format!("\"outcome\": \"killed\", \"signal\": {signal}"),
    };
    let Attempt { name, about, varies, .. } = attempt;
    format!("{{\"attempt\": {name:?}, \"group\": {group:?}, \"about\": {about:?}, \"varies\": {varies}, {ended}}}")
}

fn tell(message: &str) {
    kernel::send(CONTROL, message.as_bytes());
}

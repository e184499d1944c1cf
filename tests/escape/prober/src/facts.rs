//! What a real attacker would have found out: the test tells it in the configuration, as lines `key=value`.

use std::collections::HashMap;
use std::ffi::CStr;

use libc::AT_FDCWD;

use crate::kernel::{self, path, Result};
use crate::{CONFIG, PROC, SHARE};

const UP: &str = "../../../../../../../../../../../..";

/// Written by `tests/escape/attackers.py`; and the prober's own pid.
pub struct Facts(HashMap<String, String>, u32);

impl Facts {
    pub fn read() -> Self {
        let facts = String::from_utf8_lossy(&kernel::read(CONFIG))
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Self(facts, std::process::id())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pid of the process that stands for the keeper, as it sees itself.
    pub fn keeper(&self) -> usize {
        self.1 as usize
    }

    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    pub fn number(&self, key: &str) -> usize {
        self.text(key).parse().unwrap_or(usize::MAX)
    }

    /// Bytes given as hexadecimal digits.
    pub fn bytes(&self, key: &str) -> Vec<u8> {
        bytes(self.text(key))
    }

    /// The programs of the roles an attacker plays, one after the other; one empty program where there are none.
    pub fn filters(&self) -> Vec<Vec<u8>> {
        self.text("filters").split(',').map(bytes).collect()
    }

    /// The absolute path of *name* in the directory of decoys outside the share.
    pub fn outside(&self, name: &str) -> String {
        format!("{}/{name}", self.text("outside"))
    }

    /// The same as seen from somewhere deep: up to the host's root and down again.
    pub fn climb(&self, name: &str) -> String {
        format!("{UP}{}", self.outside(name))
    }

    /// Makes *attempt* on the outside file *name* from every descriptor and by every kind of path. Ok if one got there.
    pub fn by_any_name(&self, name: &str, attempt: impl Fn(i32, &CStr) -> Result<()>) -> Result<()> {
        let ways = [
            (SHARE, self.climb(name)),
            (PROC, self.climb(name)),
            (PROC, format!("self/cwd/{}", self.climb(name))),
            (PROC, format!("self/root{}", self.outside(name))),
            (AT_FDCWD, self.outside(name)),
        ];
        let mut answer = Ok(());
        for (directory, name) in ways {
            answer = attempt(directory, &path(&name));
            if answer.is_ok() {
                return answer;
            }
        }
        answer
    }
}

fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

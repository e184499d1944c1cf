//! Path rules of any text, stepped along any path: refused, or matched without contradictions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtiofs_worker::config::{Case, Rules as Source};
use virtiofs_worker::rules::{Rules, MAX_PATTERNS};

/// Patterns and path in the input end here.
const END: u8 = b'\n';

fuzz_target!(|bytes: &[u8]| {
    let Some((flags, text)) = bytes.split_first() else { return };
    let mut lines = text.split(|byte| *byte == END);
    let path = lines.next().unwrap_or_default();
    let patterns: Vec<String> = lines.map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    let count = patterns.len();
    let case = if flags & 1 == 0 { Case::Sensitive } else { Case::Insensitive };
    let source =
        Source { hide: patterns.clone(), readonly: patterns.clone(), allow: patterns, case, strict_links: false };
    let Ok(rules) = Rules::compile(&source) else { return };
    assert!(count <= MAX_PATTERNS);
    let mut state = rules.root();
    let mut covered = false;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        assert_eq!(rules.enter(&state, name), rules.enter(&state, name));
        state = rules.enter(&state, name);
        let (directory, file) = (rules.judge(&state, true), rules.judge(&state, false));
        // The three lists are the same: what one covers all cover, and nothing below is uncovered again.
        assert_eq!(directory.frozen, file.frozen);
        assert!(directory.frozen || !covered);
        assert!(!directory.frozen || directory.hidden);
        assert!(!directory.hidden || file.hidden);
        covered = directory.frozen;
    }
});

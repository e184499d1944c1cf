//! What patterns cover: the table that both languages share, and a matcher that tries everything as the model.

use proptest::prelude::*;
use serde_json::Value;

use virtiofs_worker::config::{Case, Rules as Source};
use virtiofs_worker::rules::{Rules, Verdict};

/// The verdict of the path's last component, taken for a directory.
fn judge(source: &Source, path: &[&[u8]]) -> Verdict {
    let rules = Rules::compile(source).expect("patterns");
    let state = path.iter().fold(rules.root(), |state, name| rules.enter(&state, name));
    rules.judge(&state, true)
}

fn source(value: &Value) -> Source {
    let list = |name: &str| match value.get(name) {
        Some(list) => list.as_array().expect("list").iter().map(|item| item.as_str().expect("text").into()).collect(),
        None => Vec::new(),
    };
    let case = match value.get("case").map(|case| case.as_str().expect("text")) {
        Some("insensitive") => Case::Insensitive,
        _ => Case::Sensitive,
    };
    Source { hide: list("hide"), readonly: list("readonly"), allow: list("allow"), case, strict_links: false }
}

#[test]
fn every_path_of_the_table_is_judged_as_it_says() {
    let table: Value = serde_json::from_str(include_str!("../../ipc/patterns.json")).expect("JSON");
    let cases = table["cases"].as_array().expect("cases");
    assert!(cases.len() > 50);
    for case in cases {
        let path: Vec<_> = case["path"].as_str().expect("text").split('/').filter(|name| !name.is_empty()).collect();
        let path: Vec<_> = path.into_iter().map(str::as_bytes).collect();
        let expected = Verdict { hidden: case["hidden"] == true, frozen: case["frozen"] == true };
        assert_eq!(judge(&source(&case["rules"]), &path), expected, "{}", case["name"]);
    }
}

fn hide(pattern: &str) -> Source {
    Source { hide: vec![pattern.into()], ..Source::default() }
}

#[test]
fn a_pattern_outside_the_grammar_is_refused_by_name() {
    let long = "x".repeat(1025);
    for (pattern, reason) in [
        ("", "is empty"),
        ("/", "starts with '/'"),
        ("/etc", "starts with '/'"),
        ("a//b", "two '/'"),
        ("a//", "two '/'"),
        (".", "'.' or '..'"),
        ("a/../b", "'.' or '..'"),
        ("a**", "glued"),
        ("**b/c", "glued"),
        ("***", "glued"),
        ("a\0b", "NUL"),
        ("a/[b", "not closed"),
        ("[]", "not closed"),
        ("[!]", "not closed"),
        ("[a/b]", "not closed"),
        ("[a\\", "backslash"),
        ("a\\", "backslash"),
        ("a\\/b", "backslash"),
        ("[z-a]", "backwards"),
        (&long, "1025 bytes"),
    ] {
        let error = Rules::compile(&hide(pattern)).expect_err(pattern).to_string();
        assert!(error.contains(reason) && error.contains("hide"), "{pattern:?}: {error}");
    }
    let many = Source { readonly: vec!["a".into(); 257], ..Source::default() };
    assert!(Rules::compile(&many).expect_err("257").to_string().contains("readonly: at most 256"));
}

#[test]
fn no_patterns_are_no_rules() {
    let source = Source { case: Case::Insensitive, strict_links: true, ..Source::default() };
    assert!(!Rules::compile(&source).expect("rules").has_patterns());
}

#[test]
fn bytes_that_are_no_text_are_matched_one_by_one() {
    for (pattern, name, hidden) in [
        ("?", &b"\xff"[..], true),
        ("?", b"\xe2\x82", false),
        ("??", b"\xe2\x82", true),
        ("a*b", b"a\xff\xfeb", true),
        ("[!a]", b"\xff", false),
        ("\u{fffd}", b"\xff", false),
        ("?", "\u{20ac}".as_bytes(), true),
    ] {
        assert_eq!(judge(&hide(pattern), &[name]).hidden, hidden, "{pattern} against {name:?}");
    }
}

#[test]
fn a_pattern_made_to_be_slow_is_not() {
    let slow = format!("{}b", "*a".repeat(500));
    let deep = format!("{}x", "**/a/".repeat(200));
    let source = Source { hide: vec![slow; 100], readonly: vec![deep; 100], ..Source::default() };
    let rules = Rules::compile(&source).expect("patterns");
    let name = [b'a'; 255];
    let begun = std::time::Instant::now();
    let mut state = rules.root();
    for _ in 0..20 {
        state = rules.enter(&state, &name);
        state = rules.enter(&state, b"a");
    }
    assert!(!rules.judge(&state, true).hidden);
    assert!(begun.elapsed() < std::time::Duration::from_secs(20));
}

/// Whether the pattern's components cover the path: tries every way.
fn covers(pattern: &[&str], path: &[String]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, _) => true,
        (Some((&"**", rest)), None) => covers(rest, path),
        (Some((&"**", rest)), Some((_, below))) => covers(rest, path) || covers(pattern, below),
        (Some(_), None) => false,
        (Some((glob, rest)), Some((name, below))) => matches(glob.as_bytes(), name.as_bytes()) && covers(rest, below),
    }
}

/// As above, for the characters of a component.
fn matches(glob: &[u8], name: &[u8]) -> bool {
    match (glob.split_first(), name.split_first()) {
        (None, _) => name.is_empty(),
        (Some((b'*', rest)), _) => matches(rest, name) || !name.is_empty() && matches(glob, &name[1..]),
        (Some((b'[', _)), Some((byte, below))) => {
            // Only "[ab]" and "[!a]" are generated.
            let end = glob.iter().position(|&byte| byte == b']').expect("closed");
            let (set, rest) = (&glob[1..end], &glob[end + 1..]);
            let held = if set[0] == b'!' { !set[1..].contains(byte) } else { set.contains(byte) };
            held && matches(rest, below)
        }
        (Some((b'?', rest)), Some((_, below))) => matches(rest, below),
        (Some((wanted, rest)), Some((byte, below))) => wanted == byte && matches(rest, below),
        (Some(_), None) => false,
    }
}

fn pattern() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec!["a", "b", "*", "?", "[ab]", "[!a]"]);
    let glob = prop::collection::vec(token, 1..6).prop_map(|tokens| tokens.concat().replace("**", "*"));
    let component = prop_oneof![3 => glob, 1 => Just("**".to_owned())];
    prop::collection::vec(component, 1..5).prop_map(|components| {
        // Runs of three and more stars are left by one replacement.
        components.join("/").replace("***", "*")
    })
}

fn path() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[abc]{1,5}", 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stepping_comes_to_what_trying_everything_does(patterns in prop::collection::vec(pattern(), 1..4), path in path()) {
        let valid = patterns.iter().all(|pattern| Rules::compile(&hide(pattern)).is_ok());
        prop_assume!(valid);
        let expected = patterns.iter().any(|pattern| covers(&pattern.split('/').collect::<Vec<_>>(), &path));
        let bytes: Vec<_> = path.iter().map(String::as_bytes).collect();
        let frozen = Source { readonly: patterns.clone(), ..Source::default() };
        prop_assert_eq!(judge(&frozen, &bytes).frozen, expected);
        let hidden = Source { hide: patterns.clone(), ..Source::default() };
        prop_assert_eq!(judge(&hidden, &bytes).hidden, expected && !path.is_empty());
        // Visible under an allow list: covered, or a directory that something covered may be in.
        let allowed = Source { allow: patterns, ..Source::default() };
        prop_assert!(!expected || !judge(&allowed, &bytes).hidden);
    }

    #[test]
    fn prefixes_in_equal_states_have_equal_futures(
        patterns in prop::collection::vec(pattern(), 1..4), one in path(), other in path(), below in path(),
    ) {
        let source = Source { hide: patterns.clone(), allow: patterns, ..Source::default() };
        let Ok(rules) = Rules::compile(&source) else { return Ok(()) };
        let walk = |state, path: &[String]| path.iter().fold(state, |state, name| rules.enter(&state, name.as_bytes()));
        let (one, other) = (walk(rules.root(), &one), walk(rules.root(), &other));
        if one == other {
            let (one, other) = (walk(one, &below), walk(other, &below));
            prop_assert_eq!(rules.judge(&one, false), rules.judge(&other, false));
        }
    }

    #[test]
    fn no_text_makes_the_parser_or_the_matcher_fail(text in any::<String>(), name in any::<Vec<u8>>()) {
        for case in [Case::Sensitive, Case::Insensitive] {
            let source = Source { hide: vec![text.clone()], case, ..Source::default() };
            if let Ok(rules) = Rules::compile(&source) {
                rules.enter(&rules.root(), &name);
            }
        }
    }
}

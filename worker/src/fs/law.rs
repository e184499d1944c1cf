//! The path rules in force: replaced as a whole, taken up by each thread between two requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::failure::lock;
use crate::rules::{Rules, State};

/// What requests are judged by.
#[derive(Debug)]
pub struct Law {
    pub rules: Rules,
    /// State of the share's root.
    pub root: Arc<State>,
    /// The root only holds mounts, and takes no changes.
    pub tree: bool,
    /// Counts replacements, from 1.
    pub version: u64,
    /// The first version that froze no more than this one does: what was seen frozen from then on is frozen still.
    pub since: u64,
}

impl Law {
    fn new(rules: Rules, tree: bool, version: u64, since: u64) -> Self {
        let root = Arc::new(rules.root());
        Self { rules, root, tree, version, since }
    }

    /// Whether requests have to be judged at all.
    fn is_needed(&self) -> bool {
        self.tree || self.rules.has_patterns()
    }
}

/// The law as the threads share it. Without rules a request costs the look at `version`.
#[derive(Debug)]
pub struct InForce {
    version: AtomicU64,
    law: Mutex<Arc<Law>>,
}

/// A thread's copy.
#[derive(Debug)]
pub struct TakenUp {
    version: u64,
    law: Option<Arc<Law>>,
}

impl TakenUp {
    pub fn law(&self) -> Option<&Law> {
        self.law.as_deref()
    }
}

impl InForce {
    pub fn new(rules: Rules, tree: bool) -> Self {
        Self { version: AtomicU64::new(1), law: Mutex::new(Arc::new(Law::new(rules, tree, 1, 1))) }
    }

    pub fn take_up(&self) -> TakenUp {
        let law = Arc::clone(&lock(&self.law));
        TakenUp { version: law.version, law: Some(law).filter(|law| law.is_needed()) }
    }

    /// To be called between two requests.
    pub fn refresh(&self, taken: &mut TakenUp) {
        if self.version.load(Ordering::Acquire) != taken.version {
            *taken = self.take_up();
        }
    }

    /// Puts *rules* in place of those in force; false when they are the same.
    pub fn replace(&self, rules: Rules) -> bool {
        let mut law = lock(&self.law);
        if rules.source() == law.rules.source() {
            return false;
        }
        let version = law.version + 1;
        let since = if rules.freezes_all_of(&law.rules) { law.since } else { version };
        *law = Arc::new(Law::new(rules, law.tree, version, since));
        self.version.store(version, Ordering::Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Case};

    fn rules(readonly: &[&str]) -> Rules {
        let readonly = readonly.iter().map(|&pattern| pattern.into()).collect();
        let source =
            config::Rules { readonly, case: Case::Insensitive, strict_links: true, ..config::Rules::default() };
        Rules::compile(&source).expect("patterns")
    }

    #[test]
    fn without_patterns_there_is_no_law_to_look_at() {
        assert!(InForce::new(rules(&[]), false).take_up().law().is_none());
        assert!(InForce::new(rules(&[]), true).take_up().law().is_some());
        assert!(InForce::new(rules(&["a"]), false).take_up().law().is_some());
    }

    #[test]
    fn what_was_seen_frozen_counts_as_long_as_no_pattern_that_froze_it_goes() {
        let in_force = InForce::new(rules(&["a"]), false);
        let mut taken = in_force.take_up();
        let mut since = |patterns: &[&str]| {
            in_force.replace(rules(patterns));
            in_force.refresh(&mut taken);
            taken.law().map(|law| (law.version, law.since))
        };
        assert_eq!(since(&["a"]), Some((1, 1)), "the same");
        assert_eq!(since(&["b", "a"]), Some((2, 1)));
        assert_eq!(since(&["b"]), Some((3, 3)));
        assert_eq!(since(&[]), None);
        assert_eq!(since(&["b"]), Some((5, 4)));
    }
}

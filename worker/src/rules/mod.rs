//! Path rules: what their patterns make of a name, stepped from directory to directory.
//!
//! All patterns together are one list of steps. A directory's *state* is the set of steps that its path has come to,
//! and which lists have matched on the way; the state of what is in it follows from that and the name. No path is ever
//! put together, and no pattern takes longer than its length.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

mod glob;
mod pattern;

use std::fmt;

use crate::config;
use glob::{Characters, Glob};
use pattern::Component;
pub use pattern::{Fault, MAX_PATTERNS, MAX_PATTERN_BYTES};

/// A pattern that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError {
    list: List,
    /// None: there are too many.
    refused: Option<(String, Fault)>,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = self.list.name();
        match &self.refused {
            Some((pattern, fault)) => write!(f, "rules: {list}: pattern {pattern:?}: {fault}"),
            None => write!(f, "rules: {list}: at most {MAX_PATTERNS} patterns are accepted"),
        }
    }
}

impl std::error::Error for PatternError {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    Hide,
    Readonly,
    Allow,
}

impl List {
    fn name(self) -> &'static str {
        match self {
            Self::Hide => "hide",
            Self::Readonly => "readonly",
            Self::Allow => "allow",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// One place in a pattern. The one after it has the next number.
#[derive(Debug)]
enum Step {
    Deep,
    Name(Glob),
    /// A pattern of this list has matched: it covers this and everything below.
    End(List),
}

/// The patterns of a share.
#[derive(Debug)]
pub struct Rules {
    source: config::Rules,
    steps: Vec<(List, Step)>,
    starts: Vec<u32>,
}

/// What the patterns have come to at one path. Equal states stay equal below equal names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Bits of the lists that have matched; nothing changes that further down.
    covered: u8,
    /// Steps of the other lists, in order.
    live: Box<[u32]>,
    is_root: bool,
}

/// What may be done with a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub hidden: bool,
    pub frozen: bool,
}

impl Rules {
    pub fn compile(source: &config::Rules) -> Result<Self, PatternError> {
        let mut rules = Self { source: source.clone(), steps: Vec::new(), starts: Vec::new() };
        for (list, patterns) in
            [(List::Hide, &source.hide), (List::Readonly, &source.readonly), (List::Allow, &source.allow)]
        {
            if patterns.len() > MAX_PATTERNS {
                return Err(PatternError { list, refused: None });
            }
            for text in patterns {
                let components = pattern::parse(text, source.case)
                    .map_err(|fault| PatternError { list, refused: Some((text.clone(), fault)) })?;
                rules.add(list, components);
            }
        }
        Ok(rules)
    }

    /// Whether there are patterns at all: without any nothing is hidden or frozen.
    pub fn has_patterns(&self) -> bool {
        !self.starts.is_empty()
    }

    pub fn source(&self) -> &config::Rules {
        &self.source
    }

    fn add(&mut self, list: List, components: Vec<Component>) {
        self.starts.push(self.steps.len() as u32);
        self.steps.extend(components.into_iter().map(|component| match component {
            Component::Deep => (list, Step::Deep),
            Component::Name(glob) => (list, Step::Name(glob)),
        }));
        self.steps.push((list, Step::End(list)));
    }

    /// Whether files with several names may not be written, since one of those might be hidden or frozen.
    pub fn has_strict_links(&self) -> bool {
        self.source.strict_links && self.has_patterns()
    }

    /// Whether everything that *older* froze is frozen still.
    pub fn freezes_all_of(&self, older: &Self) -> bool {
        self.source.case == older.source.case
            && older.source.readonly.iter().all(|pattern| self.source.readonly.contains(pattern))
    }

    /// The state of the share's root.
    pub fn root(&self) -> State {
        let mut next = Next { covered: 0, live: Vec::new() };
        self.starts.iter().for_each(|start| self.reach(*start, &mut next));
        State { is_root: true, ..self.settle(next) }
    }

    /// The state of *name* in a directory of *state*.
    pub fn enter(&self, state: &State, name: &[u8]) -> State {
        let mut next = Next { covered: state.covered, live: Vec::new() };
        if !state.live.is_empty() {
            let name = Characters::of(name, self.source.case);
            for &place in &state.live {
                match self.steps.get(place as usize) {
                    Some((_, Step::Deep)) => self.reach(place, &mut next),
                    Some((_, Step::Name(glob))) if glob.matches(&name) => self.reach(place + 1, &mut next),
                    _ => {}
                }
            }
        }
        self.settle(next)
    }

    /// Adds a step, and the one after it where the step also stands for nothing.
    fn reach(&self, place: u32, next: &mut Next) {
        match self.steps.get(place as usize) {
            Some((_, Step::End(list))) => next.covered |= list.bit(),
            Some((_, Step::Name(_))) => next.live.push(place),
            Some((_, Step::Deep)) => {
                next.live.push(place);
                self.reach(place + 1, next);
            }
            None => {}
        }
    }

    fn settle(&self, next: Next) -> State {
        let Next { covered, mut live } = next;
        let is_open = |place: &u32| self.steps.get(*place as usize).is_some_and(|(list, _)| covered & list.bit() == 0);
        live.retain(is_open);
        live.sort_unstable();
        live.dedup();
        State { covered, live: live.into(), is_root: false }
    }

    /// What *state* means for a directory, or for anything else: on the way to something allowed only directories are
    /// visible.
    pub fn judge(&self, state: &State, is_directory: bool) -> Verdict {
        let hidden = state.has(List::Hide) || !(self.source.allow.is_empty() || self.is_allowed(state, is_directory));
        Verdict { hidden: hidden && !state.is_root, frozen: state.has(List::Readonly) }
    }

    fn is_allowed(&self, state: &State, is_directory: bool) -> bool {
        let leads_on = |place: &u32| self.steps.get(*place as usize).is_some_and(|(list, _)| *list == List::Allow);
        state.has(List::Allow) || is_directory && state.live.iter().any(leads_on)
    }
}

impl State {
    fn has(&self, list: List) -> bool {
        self.covered & list.bit() != 0
    }
}

/// A state in the making.
struct Next {
    covered: u8,
    live: Vec<u32>,
}

//! The grammar of patterns (docs/policies.md, "Patterns").

use std::fmt;

use super::glob::{folded, Glob};
use crate::config::Case;

pub const MAX_PATTERNS: usize = 256;
pub const MAX_PATTERN_BYTES: usize = 1024;

/// One component of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Component {
    /// `**`: any number of components, also none.
    Deep,
    Name(Glob),
}

/// What is wrong with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Empty,
    Long(usize),
    Nul,
    Absolute,
    EmptyComponent,
    Dots,
    Glued,
    Backslash,
    OpenClass,
    Backwards,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "it is empty"),
            Self::Long(bytes) => write!(f, "it has {bytes} bytes, at most {MAX_PATTERN_BYTES} are accepted"),
            Self::Nul => write!(f, "it has a NUL character, which no name can have"),
            Self::Absolute => write!(f, "it starts with '/'; patterns are relative to the share's root"),
            Self::EmptyComponent => write!(f, "it has two '/' in a row"),
            Self::Dots => write!(f, "it has a component '.' or '..'"),
            Self::Glued => write!(f, "its '**' is glued to other characters; it is a component of its own"),
            Self::Backslash => write!(f, "a component ends with a backslash"),
            Self::OpenClass => write!(f, "a class is not closed"),
            Self::Backwards => write!(f, "a range in a class runs backwards"),
        }
    }
}

/// The components of *text*, lowered if case does not matter.
pub fn parse(text: &str, case: Case) -> Result<Vec<Component>, Fault> {
    let components = split(text)?;
    if case == Case::Sensitive {
        return Ok(components);
    }
    split(&text.chars().map(|character| folded(character, case)).collect::<String>())
}

fn split(text: &str) -> Result<Vec<Component>, Fault> {
    if text.is_empty() {
        return Err(Fault::Empty);
    }
    if text.len() > MAX_PATTERN_BYTES {
        return Err(Fault::Long(text.len()));
    }
    if text.contains('\0') {
        return Err(Fault::Nul);
    }
    if text.starts_with('/') {
        return Err(Fault::Absolute);
    }
    let mut components = Vec::new();
    for part in text.strip_suffix('/').unwrap_or(text).split('/') {
        match part {
            "" => return Err(Fault::EmptyComponent),
            "." | ".." => return Err(Fault::Dots),
            "**" if components.last() == Some(&Component::Deep) => {}
            "**" => components.push(Component::Deep),
            _ => components.push(Component::Name(Glob::parse(part)?)),
        }
    }
    Ok(components)
}

//! One component of a pattern, and one component of a name as it is compared with it.

use super::pattern::Fault;
use crate::config::Case;
use crate::fuse::abi::MAX_NAME_BYTES;

/// Bytes that are no UTF-8 count from here on: beyond every character, so that no class and no letter is one.
const RAW_BYTE: u32 = 0x0011_0000;

/// A name, character by character and lowered where case does not matter.
pub struct Characters {
    codes: [u32; MAX_NAME_BYTES],
    length: usize,
}

impl Characters {
    /// Of a longer name than can exist, the beginning.
    pub fn of(name: &[u8], case: Case) -> Self {
        let mut characters = Self { codes: [0; MAX_NAME_BYTES], length: 0 };
        for chunk in name.utf8_chunks() {
            chunk.valid().chars().for_each(|character| characters.push(u32::from(folded(character, case))));
            chunk.invalid().iter().for_each(|byte| characters.push(RAW_BYTE + u32::from(*byte)));
        }
        characters
    }

    fn push(&mut self, code: u32) {
        if let Some(place) = self.codes.get_mut(self.length) {
            *place = code;
            self.length += 1;
        }
    }

    fn as_slice(&self) -> &[u32] {
        self.codes.get(..self.length).unwrap_or_default()
    }
}

/// Lower case without changing the number of characters: U+0130, the one that would, becomes a plain i.
pub fn folded(character: char, case: Case) -> char {
    match case {
        Case::Sensitive => character,
        Case::Insensitive => character.to_lowercase().next().unwrap_or(character),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Character(u32),
    /// `?`
    One,
    /// `*`
    Run,
    Class {
        ranges: Vec<(u32, u32)>,
        negated: bool,
    },
}

impl Token {
    fn takes(&self, code: u32) -> bool {
        match self {
            Self::Character(character) => *character == code,
            Self::One => true,
            Self::Run => false,
            Self::Class { ranges, negated } => {
                code < RAW_BYTE && ranges.iter().any(|(low, high)| (*low..=*high).contains(&code)) != *negated
            }
        }
    }
}

/// A component with its `*`, `?` and classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
}

impl Glob {
    pub fn parse(component: &str) -> Result<Self, Fault> {
        let characters: Vec<char> = component.chars().collect();
        let (mut rest, mut tokens) = (&characters[..], Vec::new());
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            let token = match first {
                '*' if tokens.last() == Some(&Token::Run) => return Err(Fault::Glued),
                '*' => Token::Run,
                '?' => Token::One,
                '[' => class(&mut rest)?,
                '\\' => Token::Character(escaped(&mut rest)?),
                other => Token::Character(u32::from(other)),
            };
            tokens.push(token);
        }
        Ok(Self { tokens })
    }

    /// Takes at most as many steps as pattern and name have characters, multiplied: after a mismatch only the last `*`
    /// has to be tried with a longer run, since what follows an earlier one was matched as early as it can be.
    pub fn matches(&self, name: &Characters) -> bool {
        let name = name.as_slice();
        let (mut token, mut at) = (0, 0);
        let mut last_run = None;
        while let Some(&code) = name.get(at) {
            match self.tokens.get(token) {
                Some(Token::Run) => {
                    last_run = Some((token + 1, at));
                    token += 1;
                }
                Some(single) if single.takes(code) => (token, at) = (token + 1, at + 1),
                _ => match &mut last_run {
                    Some((after, start)) => {
                        *start += 1;
                        (token, at) = (*after, *start);
                    }
                    None => return false,
                },
            }
        }
        self.tokens.iter().skip(token).all(|rest| *rest == Token::Run)
    }
}

fn escaped(rest: &mut &[char]) -> Result<u32, Fault> {
    let (&character, after) = rest.split_first().ok_or(Fault::Backslash)?;
    *rest = after;
    Ok(u32::from(character))
}

/// The class whose `[` was just taken. A `]` that comes first is one of the characters.
fn class(rest: &mut &[char]) -> Result<Token, Fault> {
    let negated = rest.first() == Some(&'!');
    *rest = rest.get(usize::from(negated)..).unwrap_or_default();
    let mut ranges = Vec::new();
    loop {
        match rest.first() {
            None => return Err(Fault::OpenClass),
            Some(']') if !ranges.is_empty() => break,
            Some(_) => {}
        }
        let low = member(rest)?;
        let mut high = low;
        // A '-' that comes last is one of the characters.
        if let ['-', after @ ..] = rest {
            if !matches!(after.first(), None | Some(']')) {
                *rest = after;
                high = member(rest)?;
            }
        }
        if low > high {
            return Err(Fault::Backwards);
        }
        ranges.push((low, high));
    }
    *rest = rest.get(1..).unwrap_or_default();
    Ok(Token::Class { ranges, negated })
}

fn member(rest: &mut &[char]) -> Result<u32, Fault> {
    let (&character, after) = rest.split_first().ok_or(Fault::OpenClass)?;
    *rest = after;
    if character == '\\' {
        escaped(rest)
    } else {
        Ok(u32::from(character))
    }
}

//! Which coordinator of a run speaks. Every call and every answer says it: of two that take themselves for the run's, the later
//! one is.

use std::fmt;
use std::str::FromStr;

/// A coordinator among those that a run has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Tells the run from all others; terms of different runs say nothing of each other.
    pub run: u64,
    /// Grows with every coordinator that goes on with the run, from 1.
    pub number: u64,
}

impl Term {
    /// Whether another one, of the same run, is later.
    pub fn is_before(self, other: Term) -> bool {
        self.run == other.run && self.number < other.number
    }

    /// What is known once an answer of `answered` was heard by one that had heard `known`; the error is the term that an answer
    /// is older than, which counts for nothing. Another run says itself what it has to do with the caller.
    pub fn hear(known: Option<Term>, answered: Term) -> Result<Term, Term> {
        match known {
            Some(known) if answered.is_before(known) => Err(known),
            Some(known) if answered.run != known.run => Ok(known),
            _ => Ok(answered),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.run, self.number)
    }
}

/// Text that is no term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no term")]
pub struct NoTerm;

impl FromStr for Term {
    type Err = NoTerm;

    fn from_str(text: &str) -> Result<Self, NoTerm> {
        let (run, number) = text.split_once('.').ok_or(NoTerm)?;
        let run = u64::from_str_radix(run, 16).map_err(|_| NoTerm)?;
        Ok(Self { run, number: number.parse().map_err(|_| NoTerm)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn term(run: u64, number: u64) -> Term {
        Term { run, number }
    }

    #[test]
    fn text_and_back() {
        for t in [term(0, 1), term(u64::MAX, u64::MAX), term(0xabc, 17)] {
            assert_eq!(t.to_string().parse(), Ok(t));
        }
        for text in ["", "1", ".", "x.1", "1.x", "1.-1", "11111111111111111.1"] {
            assert_eq!(text.parse::<Term>(), Err(NoTerm), "{text}");
        }
    }

    #[test]
    fn the_later_one_counts_and_only_among_those_of_one_run() {
        assert!(term(1, 1).is_before(term(1, 2)));
        assert!(!term(1, 2).is_before(term(1, 2)) && !term(1, 3).is_before(term(1, 2)));
        // A worker that is left of an earlier run ends no coordinator of another one.
        assert!(!term(1, 1).is_before(term(2, 9)));
        assert_eq!(Term::hear(None, term(1, 3)), Ok(term(1, 3)));
        assert_eq!(Term::hear(Some(term(1, 3)), term(1, 4)), Ok(term(1, 4)));
        // One that was stopped, and continues.
        assert_eq!(Term::hear(Some(term(1, 4)), term(1, 3)), Err(term(1, 4)));
        assert_eq!(Term::hear(Some(term(1, 4)), term(2, 1)), Ok(term(1, 4)));
    }
}

//! The collectives of one generation: what one rank enters, all enter; each learns of the end on its own.

use octrain_proto::v1::{Generation, Placement};
use std::collections::{BTreeMap, BTreeSet};

/// Weights, by what they were made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Optimizer steps finished.
    pub step: u64,
    /// Chain of all that was learned.
    pub hash: u64,
}

/// What a rank enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enters {
    /// Connects with all others.
    Connect,
    /// Takes on the source's state; its own, if it has one.
    TakeOn(Option<State>),
    /// Adds up the gradients of a step from this state; asks all to stop, or to part behind it.
    Step { from: State, boundary: bool, interrupt: bool },
    /// Parts with all others, behind this step.
    Part { at: State },
    /// Has done the last step, and waits until all have.
    Conclude { at: State },
}

/// One collective.
#[derive(Debug, Default)]
pub struct Collective {
    /// By rank: which process, and what it brought.
    pub entered: BTreeMap<u32, (usize, Enters)>,
    /// All have come.
    pub complete: bool,
}

/// A generation as its members were told of it.
#[derive(Debug)]
pub struct Group {
    /// Who has which rank.
    pub roster: Vec<Placement>,
    /// Whose state all take on.
    pub source: Option<u32>,
    /// In the order in which every rank enters them.
    pub collectives: Vec<Collective>,
    /// Ranks that are gone from it: dead, or on their way to the next one.
    pub gone: BTreeSet<u32>,
}

impl Group {
    /// As a reply tells of it.
    pub fn new(formed: &Generation) -> Self {
        Self {
            roster: formed.roster.clone(),
            source: formed.source,
            collectives: Vec::new(),
            gone: BTreeSet::new(),
        }
    }

    /// Whether another reply tells of the same one.
    pub fn is(&self, formed: &Generation) -> bool {
        self.roster == formed.roster && self.source == formed.source
    }

    /// Enters collective `n`. Returns whether all have come now.
    ///
    /// # Errors
    /// What is wrong with it: two processes of one rank, or ranks that do not enter the same.
    pub fn enter(&mut self, n: usize, rank: u32, process: usize, what: Enters) -> Result<bool, String> {
        if self.collectives.len() <= n {
            self.collectives.resize_with(n + 1, Collective::default);
        }
        let collective = &mut self.collectives[n];
        if let Some((_, (_, other))) = collective.entered.first_key_value()
            && !alike(other, &what)
        {
            return Err(format!("collective {n}: rank {rank} enters {what:?}, another one {other:?}"));
        }
        if let Some((other, _)) = collective.entered.insert(rank, (process, what)) {
            return Err(format!("collective {n}: processes {other} and {process} are both rank {rank}"));
        }
        collective.complete = collective.entered.len() == self.roster.len();
        Ok(collective.complete)
    }
}

/// Whether two ranks may enter these together.
fn alike(a: &Enters, b: &Enters) -> bool {
    match (a, b) {
        (Enters::Step { from: a, .. }, Enters::Step { from: b, .. }) => a == b,
        (Enters::Part { at: a }, Enters::Part { at: b }) => a == b,
        (Enters::Conclude { at: a }, Enters::Conclude { at: b }) => a == b,
        (Enters::TakeOn(_), Enters::TakeOn(_)) | (Enters::Connect, Enters::Connect) => true,
        _ => false,
    }
}

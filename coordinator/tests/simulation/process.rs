//! One worker process as the simulated machines run it: what it is doing, and what is done to it.

use super::group::State;
use super::hang::Hung;
use octrain_proto::v1::{Departure, Generation};

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Registers.
    Register,
    /// Waits for its plan.
    Plan,
    /// Builds what it trains, before it joins a running job.
    Build,
    /// Comes to the next generation, and waits for it.
    Attach,
    /// In its generation: the collective that it has entered, or is about to enter.
    Train,
    /// Says that it leaves.
    Leave,
    /// Has ended.
    Gone,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Done: it left, after the last step or asked to.
    Done,
    /// The job ended, or went on without it.
    Told,
    /// It gave up a coordinator that does not answer.
    GaveUp,
    /// A fault: killed, or failed by itself.
    Fault,
    /// It was refused.
    Refused,
    /// It has left, as it was to, and the job goes on.
    Drained,
}

/// A worker process.
#[derive(Debug)]
pub struct Process {
    /// Its place: local index on its host.
    pub place: usize,
    /// What it is doing.
    pub doing: Doing,
    /// Rises whenever it does something else: what was to happen to what it did before does not.
    pub turn: u64,
    /// What the coordinator calls it.
    pub member: Option<String>,
    /// The generation it speaks in.
    pub generation: u64,
    /// It joins a running job, and is in no generation yet.
    pub joins: bool,
    /// Its generation as it was told.
    pub formed: Option<Generation>,
    /// Collectives it has entered in its generation.
    pub collectives: usize,
    /// Its weights, once it has begun.
    pub state: Option<State>,
    /// It waits in the last of these.
    pub waits: bool,
    /// The last time that its trainer stood still.
    pub hung: Option<Hung>,
    /// It was connected in this generation.
    pub connected: bool,
    /// Steps that it has finished itself, as it reports.
    pub stepped: u64,
    /// All generations before this one are over.
    pub over: u64,
    /// The generation that is to be left at a boundary.
    pub boundary: u64,
    /// All are to stop behind the next step.
    pub interrupt: bool,
    /// When it was asked to stop, alone.
    pub leaving: Option<u64>,
    /// What the coordinator has said of that last.
    pub departure: Departure,
    /// Generations that it was in when it had been told that it leaves.
    pub kept: u64,
    /// When the coordinator answered last.
    pub answered: u64,
    /// When it last looked whether its heartbeats are answered.
    pub looked: u64,
    /// When a heartbeat of its last went its way in time.
    pub heard: u64,
    /// The watch that it holds open.
    pub watch: Option<u64>,
    /// Stopped until then.
    pub paused: u64,
    /// Cut off from the coordinator until then.
    pub cut: u64,
    /// Something was done to it for which it may be given up.
    pub harmed: bool,
    /// How it ended.
    pub end: Option<End>,
}

impl Process {
    /// A process that starts at `now`.
    pub fn new(place: usize, now: u64) -> Self {
        Self {
            place,
            doing: Doing::Register,
            turn: 0,
            member: None,
            generation: 0,
            joins: false,
            formed: None,
            collectives: 0,
            waits: false,
            hung: None,
            state: None,
            connected: false,
            stepped: 0,
            over: 0,
            boundary: 0,
            interrupt: false,
            leaving: None,
            kept: 0,
            departure: Departure::None,
            answered: now,
            looked: now,
            heard: now,
            watch: None,
            paused: 0,
            cut: 0,
            harmed: false,
            end: None,
        }
    }

    /// Whether it runs.
    pub fn lives(&self) -> bool {
        self.end.is_none()
    }

    /// What it makes, at `now`, of having been asked to stop alone: without an answer all are to.
    pub fn departs(&self, now: u64) -> Departure {
        match (self.leaving, self.departure) {
            (None, _) => Departure::None,
            (Some(since), Departure::None) if now >= since + 5000 => Departure::All,
            (_, told) => told,
        }
    }

    /// Its rank in its generation.
    pub fn rank(&self) -> u32 {
        self.formed.as_ref().map_or(0, |formed| formed.rank)
    }
}

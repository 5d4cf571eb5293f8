//! What stands in a journal. Steps, heartbeats and the rendezvous store do not: workers tell the former anew, and who needs the
//! latter forms another generation.

use octrain_proto::v1::{Abort, BuildPlan, Generation, JobSpec, WorkerFacts};
use std::fmt;

/// One thing that has happened.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Record {
    /// The first: whose journal it is.
    #[prost(message, tag = "1")]
    Run(Run),
    /// A coordinator has begun, of this term: the first of 1, each later one of a higher.
    #[prost(uint64, tag = "2")]
    Term(u64),
    /// A worker was admitted.
    #[prost(message, tag = "3")]
    Admit(Admit),
    /// All had come, and the run was decided.
    #[prost(message, tag = "4")]
    Plan(BuildPlan),
    /// A generation was formed.
    #[prost(message, tag = "5")]
    Generation(Formed),
    /// Workers of this generation had used its rendezvous store.
    #[prost(uint64, tag = "6")]
    Opened(u64),
    /// The job has nothing to do with a worker any more.
    #[prost(message, tag = "7")]
    Gone(Gone),
    /// A worker was done.
    #[prost(message, tag = "8")]
    Left(Left),
    /// The job has ended.
    #[prost(message, tag = "9")]
    End(End),
    /// All who wanted to have heard of the end.
    #[prost(bool, tag = "10")]
    Closed(bool),
    /// A worker that came to the running job has taken on its state.
    #[prost(string, tag = "11")]
    Tried(String),
    /// A worker has said that a collective failed, or was waited in in vain, of which the root cause is awaited.
    #[prost(message, tag = "12")]
    Suspected(Suspected),
    /// A worker has left, as it was to, and the job goes on without it.
    #[prost(message, tag = "13")]
    Drained(Drained),
    /// The job is to have so many workers from now on.
    #[prost(uint32, tag = "14")]
    Resized(u32),
}

/// A worker that the job goes on without.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Drained {
    /// Its name.
    #[prost(string, tag = "1")]
    pub member: String,
    /// It was asked to stop; else there was no room for it.
    #[prost(bool, tag = "2")]
    pub asked: bool,
}

/// Whose journal it is: what a coordinator that goes on with it must agree with.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Run {
    /// Random; tells this run from all others.
    #[prost(fixed64, tag = "1")]
    pub uid: u64,
    /// Name of the job.
    #[prost(string, tag = "2")]
    pub job_id: String,
    /// Number of the first generation.
    #[prost(uint64, tag = "3")]
    pub generation: u64,
    /// Workers the job consists of.
    #[prost(uint32, tag = "4")]
    pub world_size: u32,
    /// Fewest it goes on with.
    #[prost(uint32, tag = "5")]
    pub min_world: u32,
    /// Milliseconds of silence that its workers were told of.
    #[prost(uint64, tag = "6")]
    pub heartbeat_timeout_ms: u64,
    /// Most that it may have; 0: as many as it consists of.
    #[prost(uint32, tag = "7")]
    pub max_world: u32,
}

impl Run {
    /// Most workers that the job may have.
    pub fn most(&self) -> u32 {
        self.max_world.max(self.world_size)
    }
}

/// A worker, as it has registered.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Admit {
    /// The name it was given.
    #[prost(string, tag = "1")]
    pub member: String,
    /// What a repeated registration is recognised by.
    #[prost(string, tag = "2")]
    pub nonce: String,
    /// What its launcher knows it by. Never shown.
    #[prost(string, tag = "3")]
    pub token: String,
    /// Where it is, and what it can do.
    #[prost(message, required, tag = "4")]
    pub facts: WorkerFacts,
    /// What it was told to do.
    #[prost(message, required, tag = "5")]
    pub spec: JobSpec,
    /// It came to the running job.
    #[prost(bool, tag = "6")]
    pub joins: bool,
    /// The GPU it was given there: the number its process knows it by, and which one that is.
    #[prost(uint32, optional, tag = "7")]
    pub cuda_device: Option<u32>,
    /// Empty on CPUs, and before the start.
    #[prost(string, tag = "8")]
    pub cuda_uuid: String,
}

impl fmt::Debug for Admit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admit({}, {:?}, joins: {})", self.member, self.facts, self.joins)
    }
}

/// A generation and who is in it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Formed {
    /// As rank 0 gets it.
    #[prost(message, required, tag = "1")]
    pub formed: Generation,
    /// Members, in the order of ranks.
    #[prost(string, repeated, tag = "2")]
    pub members: Vec<String>,
    /// Why the one before is over; empty of the first.
    #[prost(string, tag = "3")]
    pub why: String,
}

/// One that the job has nothing to do with any more.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Gone {
    /// Who.
    #[prost(string, tag = "1")]
    pub member: String,
    /// What it hears if it asks: the job goes on without it. Absent: it is forgotten.
    #[prost(message, optional, tag = "2")]
    pub dropped: Option<Abort>,
}

/// One that was done.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Left {
    /// Who.
    #[prost(string, tag = "1")]
    pub member: String,
    /// Because it was asked to stop.
    #[prost(bool, tag = "2")]
    pub interrupted: bool,
}

/// A failed collective of one that will not come back, perhaps the echo of another worker's end.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Suspected {
    /// Who.
    #[prost(string, tag = "1")]
    pub member: String,
    /// What it said.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Nothing broke: it waited until the deadline.
    #[prost(bool, tag = "3")]
    pub waited: bool,
    /// Collectives that it had entered.
    #[prost(uint64, tag = "4")]
    pub collectives: u64,
}

/// How the job has ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct End {
    /// The cause; absent: all had left.
    #[prost(message, optional, tag = "1")]
    pub abort: Option<Abort>,
    /// Where all had left: at least one because it was interrupted.
    #[prost(bool, tag = "2")]
    pub interrupted: bool,
}

/// What happened at once.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Entry {
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<Item>,
}

/// A record as it is encoded.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Item {
    #[prost(oneof = "Record", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14")]
    pub record: Option<Record>,
}

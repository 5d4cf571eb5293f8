//! Sizes that a running job cannot have.

/// Why a job does not become one of so many workers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResizeRefusal {
    /// Its workers have not all come.
    #[error(
        "the job has not started: its workers have yet to come, and it starts with {world}; ask again then"
    )]
    NotStarted {
        /// Its size.
        world: u32,
    },
    /// It ends with any of its workers.
    #[error(
        "the job cannot do without any of its {world} workers, as it has no minimum: start it with --min-world N (octrain-coordinator, octrain train) to change its size while it runs{}", .held.map_or(String::new(), |why| format!(" ({why})"))
    )]
    NoMinimum {
        /// Its size.
        world: u32,
        /// Why it has none though one was given.
        held: Option<&'static str>,
    },
    /// Fewer than the minimum.
    #[error(
        "{wanted} workers are fewer than the job goes on with (--min-world {min}): give from {min} to {max}"
    )]
    TooFew {
        /// What is wanted.
        wanted: u32,
        /// Fewest.
        min: u32,
        /// Most.
        max: u32,
    },
    /// More than there may be.
    #[error(
        "{wanted} workers are more than the job may have (as many as it was started with, or octrain-coordinator --max-world): give from {min} to {max}"
    )]
    TooMany {
        /// What is wanted.
        wanted: u32,
        /// Fewest.
        min: u32,
        /// Most.
        max: u32,
    },
    /// It is about to end.
    #[error("the job is about to end: its workers are leaving")]
    Ending,
}

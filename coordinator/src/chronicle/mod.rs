//! What is told of a job's course beside its log: [happenings](happening), which decisions give, as a file of JSON lines (the
//! schema is docs/events.md), and a [summary] of them at the job's end. Only [`mod@file`] does I/O.

pub mod budget;
pub mod file;
pub mod happening;
pub mod line;
pub mod summary;

pub use file::{EventFileError, Teller};
pub use happening::{Found, Happening, Told, Who, seconds};

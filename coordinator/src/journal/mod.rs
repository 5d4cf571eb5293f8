//! What a coordinator has to know again when it is started anew: the job's journal.
//!
//! A journal is a file of [records](record), each with its checksum, that is only ever appended to, and synced before anybody
//! is told of what stands in it. [`mod@format`] is its bytes, [`mod@file`] the file itself, and
//! [`crate::job::replay`] makes a job of it.

pub mod file;
pub mod format;
pub mod record;

pub use file::{Journal, JournalError, Opened};
pub use record::Record;

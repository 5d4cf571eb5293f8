//! A worker that leaves a job which goes on without it.

use super::course::Outcome;
use super::{Run, trace::Tracing};
use crate::launcher::signals;
use crate::metrics::Reporter;
use crate::session::Session;

/// Whether all ranks are to stop, as far as this one was asked to. One that is to leave alone goes on until the next boundary.
pub(super) fn stops(session: &Session) -> bool {
    signals::requested() && !session.leaves_alone()
}

impl Run<'_> {
    /// Lets go of what the rank that speaks and writes has: it may be another's with the next generation, of which this worker
    /// hears nothing.
    pub(super) fn let_go(&mut self) {
        self.output.folder = None;
        self.reporter = Reporter::silent(self.task.config.run.print_interval);
    }

    /// The end of a worker that the job goes on without, as it was to leave.
    pub(super) fn left(&mut self) -> Outcome {
        self.tracing.iter_mut().for_each(Tracing::write_own);
        self.outcome(true)
    }
}

//! Time that passes: what it makes of a job, and what is noticed of its workers and ends nothing (hangs, and those that are slow).

use super::{Job, failure, hang, straggler};
use crate::config::CoordinatorConfig;
use crate::membership::Now;

/// Time has passed. All that there is to say.
pub(super) fn tick(now: Now, job: &mut Job, config: &CoordinatorConfig) -> Option<String> {
    let ended = failure::tick(now, job, config);
    let said = [ended, hang::look(now, job, config), straggler::look(now, job)];
    let said: Vec<String> = said.into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join("; "))
}

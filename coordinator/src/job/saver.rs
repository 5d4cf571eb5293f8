//! Who saves when a job that outlives its workers has ended. Its workers cannot tell: the roster that they joined last may
//! name dead ones. In a job that ends with any of its workers, that roster is the one there is, and they decide by it.

use super::{Job, Phase};
use crate::membership::Member;
use octrain_proto::v1::{AbortKind, Saver, Standing};
use std::cmp::Reverse;

/// The worker that saves: one that is left and, where a generation was being formed, has come to it; of those the one that
/// is furthest. Of several that are known to be no further than each other, one of another host than the lost worker's,
/// which may be gone as a whole; then the first. None where nothing is worth saving; never one that has nothing to save.
pub(super) fn named(job: &Job, kind: AbortKind, culprit: Option<&Member>) -> Option<Saver> {
    let began = matches!(job.phase, Phase::Running { .. } | Phase::Reforming { .. });
    if !job.survives || !began || kind == AbortKind::NotFinite {
        return None;
    }
    let forming = matches!(job.phase, Phase::Reforming { .. });
    let lost = culprit.filter(|_| kind == AbortKind::WorkerLost).map(|m| m.facts.host.as_str());
    let key = |m: &Member| {
        let attached = m.attached.filter(|_| forming);
        let standing = match attached {
            Some(standing) => standing.unwrap_or_default(),
            None => Standing { step: m.step, stage: 0 },
        };
        let elsewhere = lost != Some(m.facts.host.as_str());
        // Who has come has just been heard, wherever it is.
        let lives = (attached.is_some(), attached.is_some() || elsewhere);
        (lives, standing.step, standing.stage, elsewhere, Reverse(m.rank))
    };
    let furthest = job.members.values().filter(|m| m.counted() && !m.untried).max_by_key(|m| key(m));
    // The one whose data ended it, where it was alone.
    let alone = || {
        job.members.values().find(|m| !m.left && !m.drained && m.dropped.is_none() && !m.joins && !m.untried)
    };
    let place = furthest.or_else(alone)?.place();
    Some(Saver { host: place.host, local_index: place.local_index })
}

//! When the coordinator may go.

use super::{Job, Phase};
use crate::config::CoordinatorConfig;
use crate::membership::{Member, Now};
use crate::ranks::Place;
use octrain_proto::v1::AbortKind;
use std::collections::HashSet;

impl Job {
    /// Whether the coordinator may go: the job has ended, and everyone knows or has had time to.
    pub fn drained(&self, now: Now, config: &CoordinatorConfig) -> bool {
        match &self.phase {
            Phase::Finished { .. } => true,
            Phase::Failed { at, .. } => {
                let heard = now >= *at + config.linger || self.members.values().all(|m| m.left || m.told);
                heard && (now >= *at + config.linger_for_late || !self.awaits_late(config))
            }
            _ => false,
        }
    }

    /// Whether the job failed before it began and workers may yet come to hear of it.
    fn awaits_late(&self, config: &CoordinatorConfig) -> bool {
        let Phase::Failed { abort, .. } = &self.phase else { return false };
        let began = self.members.values().any(|m| m.rank.is_some());
        // Those who do not come in time are not awaited any longer, and who is told to stop goes.
        let over = abort.kind() == AbortKind::RegisterTimeout || self.told_to_stop;
        let members: HashSet<Place> = self.members.values().map(Member::place).collect();
        !began && !over && members.union(&self.told).count() < config.world_size as usize
    }
}

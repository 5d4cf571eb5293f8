//! When the coordinator may go.

use super::{Job, Phase};
use crate::config::CoordinatorConfig;
use crate::membership::Now;
use octrain_proto::v1::AbortKind;

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
        let over = matches!(abort.kind(), AbortKind::RegisterTimeout | AbortKind::Shutdown);
        let told = self.members.len() + self.told.len();
        !began && !over && told < config.world_size as usize
    }
}

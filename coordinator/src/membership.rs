//! Who is in the job. Plain data and questions about it.

use crate::config::CoordinatorConfig;
use crate::ranks::{Place, natural};
use octrain_proto::v1::{JobSpec, StepReport, WorkerFacts};
use std::collections::BTreeMap;
use std::time::Duration;

/// Time since the coordinator started, as it observed it (see [`crate::clock`]).
pub type Now = Duration;

/// One worker, as the coordinator sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Chosen by the worker, so that a repeated registration is recognised.
    pub nonce: String,
    /// Where it is, and what it can do.
    pub facts: WorkerFacts,
    /// What it was told to do.
    pub spec: JobSpec,
    /// When it was last heard.
    pub last_seen: Now,
    /// When its watch broke, if it has not been heard since.
    pub disconnected: Option<Now>,
    /// Watches it has opened; only the newest one's breaking means anything.
    pub watches: u64,
    /// Optimizer steps it has finished.
    pub step: u64,
    /// Its last report.
    pub report: Option<StepReport>,
    /// Its rank, once assigned.
    pub rank: Option<u32>,
    /// It left, done or interrupted.
    pub left: bool,
    /// It said that it cannot go on.
    pub failed: bool,
    /// It knows that the job has ended.
    pub told: bool,
}

impl Member {
    /// Where it is.
    pub fn place(&self) -> Place {
        crate::place_of(&self.facts)
    }

    /// Whether the job depends on its being alive.
    pub fn counted(&self) -> bool {
        !self.left && !self.failed
    }

    /// Rank, host, local index, pid, last step.
    pub fn describe(&self) -> String {
        let rank = self.rank.map_or("not ranked yet".to_string(), |r| format!("rank {r}"));
        let WorkerFacts { host, local_index, pid, .. } = &self.facts;
        format!("{rank} (host {host}, local index {local_index}, pid {pid}, last step {})", self.step)
    }
}

/// Members by the name they were given.
pub type Members = BTreeMap<String, Member>;

/// Who is missing, e.g. `1 of 4 workers missing: host b local 1; here: host a local 0, ...`; none when complete.
/// Workers are named where the configuration or their launcher's worker count tells about them.
pub fn missing(config: &CoordinatorConfig, members: &Members) -> Option<String> {
    let mut here: Vec<Place> = members.values().map(Member::place).collect();
    here.sort_by(|a, b| natural(&a.host, &b.host).then(a.local_index.cmp(&b.local_index)));
    let world = config.world_size as usize;
    let count = world.saturating_sub(here.len());
    if count == 0 {
        return None;
    }
    let mut absent: Vec<Place> = config.expected.iter().filter(|p| !here.contains(p)).cloned().collect();
    if config.expected.is_empty() {
        for place in here.iter() {
            let told = members
                .values()
                .filter(|m| m.facts.host == place.host)
                .map(|m| m.facts.local_world)
                .max()
                .unwrap_or(0);
            for local_index in 0..told {
                let other = Place { host: place.host.clone(), local_index };
                if !here.contains(&other) && !absent.contains(&other) {
                    absent.push(other);
                }
            }
        }
        absent.truncate(count);
    }
    let unknown = count - absent.len().min(count);
    let mut parts: Vec<String> = absent.iter().map(Place::to_string).collect();
    match (unknown, here.is_empty()) {
        (0, _) => {}
        (n, true) => parts.push(format!("all {n}, no worker has reached the coordinator")),
        (n, false) => parts.push(format!("{n} on hosts that have not reported")),
    }
    let mut text = format!("{count} of {world} workers missing: {}", parts.join(", "));
    if !here.is_empty() {
        let shown: Vec<String> = here.iter().take(16).map(Place::to_string).collect();
        let more = if here.len() > 16 { format!(" and {} more", here.len() - 16) } else { String::new() };
        text.push_str(&format!("; here: {}{more}", shown.join(", ")));
    }
    Some(text)
}

#[cfg(test)]
pub(crate) fn member(host: &str, local_index: u32, local_world: u32) -> Member {
    Member {
        nonce: format!("{host}{local_index}"),
        facts: WorkerFacts {
            host: host.into(),
            local_index,
            local_world,
            pid: 100 + local_index,
            capabilities: None,
        },
        spec: JobSpec::default(),
        last_seen: Now::ZERO,
        disconnected: None,
        watches: 0,
        step: 0,
        report: None,
        rank: None,
        left: false,
        failed: false,
        told: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(of: &[(&str, u32, u32)]) -> Members {
        of.iter().map(|(h, l, w)| (format!("{h}:{l}"), member(h, *l, *w))).collect()
    }

    #[test]
    fn missing_workers_are_named_as_far_as_they_are_known() {
        let four = CoordinatorConfig::new("x", 4);
        let place = |host: &str, local_index| Place { host: host.into(), local_index };
        let named = CoordinatorConfig {
            expected: vec![place("a", 0), place("a", 1)],
            ..CoordinatorConfig::new("x", 2)
        };
        let cases: [(&CoordinatorConfig, Members, Option<&str>); 6] = [
            (
                &four,
                members(&[]),
                Some("4 of 4 workers missing: all 4, no worker has reached the coordinator"),
            ),
            (
                &four,
                members(&[("b", 0, 2), ("a", 0, 2), ("a", 1, 2)]),
                Some(
                    "1 of 4 workers missing: host b local 1; here: host a local 0, host a local 1, host b local 0",
                ),
            ),
            (
                &four,
                members(&[("a", 1, 2)]),
                Some(
                    "3 of 4 workers missing: host a local 0, 2 on hosts that have not reported; here: host a local 1",
                ),
            ),
            (
                &four,
                members(&[("a", 0, 0)]),
                Some("3 of 4 workers missing: 3 on hosts that have not reported; here: host a local 0"),
            ),
            (&named, members(&[]), Some("2 of 2 workers missing: host a local 0, host a local 1")),
            (&named, members(&[("a", 0, 2), ("a", 1, 2)]), None),
        ];
        for (config, members, want) in cases {
            assert_eq!(missing(config, &members).as_deref(), want);
        }
    }
}

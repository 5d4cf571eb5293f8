//! Who is in the job. Plain data and questions about it.

use crate::config::CoordinatorConfig;
use crate::ranks::{Place, natural};
use crate::speed::Speed;
use crate::strategy::Gpu;
use octrain_proto::v1::{Abort, JobSpec, Standing, StepReport, Whereabouts, WorkerFacts};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// Time since the coordinator started, as it observed it (see [`crate::clock`]).
pub type Now = Duration;

/// What only a worker and its launcher know.
#[derive(Clone, Default, PartialEq)]
pub struct Token(String);

impl Token {
    /// That of a registration.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// As it was given, to be kept.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Whether a caller knows it; never where there is none.
    pub fn is(&self, theirs: &str) -> bool {
        // As long for a wrong one as for the right one.
        let differ = self.0.bytes().zip(theirs.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
        !self.0.is_empty() && self.0.len() == theirs.len() && differ == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// One worker, as the coordinator sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Chosen by the worker, so that a repeated registration is recognised.
    pub nonce: String,
    /// What its launcher knows it by; empty where it has none.
    pub token: Token,
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
    /// Collectives of its generation that it has entered.
    pub collectives: u64,
    /// Where it is, as it said last in its generation.
    pub at: Whereabouts,
    /// When it said so.
    pub beat: Now,
    /// How long it takes for its own part of a step.
    pub speed: Speed,
    /// Its last report.
    pub report: Option<StepReport>,
    /// Its rank, once assigned, in the last generation that it was in.
    pub rank: Option<u32>,
    /// Its GPU, once assigned: the same in all generations.
    pub gpu: Option<Gpu>,
    /// The last generation that it was in; 0 before the first.
    pub generation: u64,
    /// The last generation that it has spoken in as one who has its plan, and its part in it; 0: not yet. What it has asked before
    /// that and comes later, a repeated call or one that was long under way, has been answered.
    pub spoken: u64,
    /// It is connected to the others of that generation.
    pub connected: bool,
    /// It has come to the generation that is being formed, and stands there; none: it has not begun.
    pub attached: Option<Option<Standing>>,
    /// It left, done or interrupted.
    pub left: bool,
    /// It said that it cannot go on, or was lost.
    pub failed: bool,
    /// It was asked to stop, alone: it leaves at a boundary between two steps, where the job can go on without it.
    pub leaving: bool,
    /// It has left so, or as fewer are wanted: the job goes on without it.
    pub drained: bool,
    /// When its launcher was last told that another one is wanted in its place, which has not come yet.
    pub recalled: Option<Now>,
    /// What it is told when it is heard again: the job goes on without it.
    pub dropped: Option<Abort>,
    /// It came to a running job, and is in no generation yet.
    pub joins: bool,
    /// It came to a running job, and has not said yet that it has taken on its state.
    pub untried: bool,
    /// Generations that it was in untried.
    pub tries: u32,
    /// When it registered.
    pub since: Now,
    /// It knows that the job has ended.
    pub told: bool,
}

impl Member {
    /// One that has just registered, and of whom nothing else is known.
    pub fn new(now: Now, nonce: String, token: String, facts: WorkerFacts, spec: JobSpec) -> Self {
        Self {
            nonce,
            token: Token::new(token),
            facts,
            spec,
            last_seen: now,
            disconnected: None,
            watches: 0,
            step: 0,
            collectives: 0,
            at: Whereabouts::default(),
            beat: now,
            speed: Speed::default(),
            report: None,
            rank: None,
            gpu: None,
            generation: 0,
            spoken: 0,
            connected: false,
            attached: None,
            left: false,
            failed: false,
            leaving: false,
            drained: false,
            recalled: None,
            dropped: None,
            joins: false,
            untried: false,
            tries: 0,
            since: now,
            told: false,
        }
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        crate::place_of(&self.facts)
    }

    /// Whether the job depends on its being alive.
    pub fn counted(&self) -> bool {
        self.lives() && !self.joins
    }

    /// Whether it is alive as far as is known, and has not left.
    pub fn lives(&self) -> bool {
        !self.left && !self.failed && !self.drained
    }

    /// A call of one that was let in and has not heard of it yet: it has not come, whatever its call says of leaving.
    pub fn has_not_come(&self, header_generation: u64) -> bool {
        self.untried && !self.joins && header_generation < self.generation && self.spoken < self.generation
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

/// Places named in a message; of more, their number is told.
pub(crate) const NAMED: usize = 16;

/// Who is missing, e.g. `1 of 4 workers missing: host b local 1; here: host a local 0, ...`; none when complete.
/// Workers are named where the configuration or their launcher's worker count tells about them. However many workers a
/// peer claims, this takes no longer than the job is large.
pub fn missing(config: &CoordinatorConfig, members: &Members) -> Option<String> {
    let world = config.world_size as usize;
    let count = world.saturating_sub(members.len());
    if count == 0 {
        return None;
    }
    let here: HashSet<Place> = members.values().map(Member::place).collect();
    let mut absent: Vec<Place> = config.expected.iter().filter(|p| !here.contains(p)).cloned().collect();
    if config.expected.is_empty() {
        let mut told: BTreeMap<&str, u32> = BTreeMap::new();
        for m in members.values() {
            let largest = told.entry(&m.facts.host).or_default();
            *largest = m.facts.local_world.max(*largest);
        }
        let mut hosts: Vec<(&str, u32)> = told.into_iter().collect();
        hosts.sort_by(|a, b| natural(a.0, b.0));
        absent = hosts
            .into_iter()
            .flat_map(|(host, told)| {
                (0..told).map(move |local_index| Place { host: host.into(), local_index })
            })
            .filter(|place| !here.contains(place))
            .take(count)
            .collect();
    }
    let unknown = count - absent.len().min(count);
    let mut parts = vec![named(&absent)];
    match (unknown, here.is_empty()) {
        (0, _) => {}
        (n, true) => parts.push(format!("all {n}, no worker has reached the coordinator")),
        (n, false) => parts.push(format!("{n} on hosts that have not reported")),
    }
    parts.retain(|p| !p.is_empty());
    let mut text = format!("{count} of {world} workers missing: {}", parts.join(", "));
    if !here.is_empty() {
        let mut here: Vec<Place> = here.into_iter().collect();
        here.sort_by(|a, b| natural(&a.host, &b.host).then(a.local_index.cmp(&b.local_index)));
        text.push_str(&format!("; here: {}", named(&here)));
    }
    Some(text)
}

fn named(places: &[Place]) -> String {
    let shown: Vec<String> = places.iter().take(NAMED).map(Place::to_string).collect();
    match places.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
pub(crate) fn member(host: &str, local_index: u32, local_world: u32) -> Member {
    let pid = 100 + local_index;
    let facts = WorkerFacts { host: host.into(), local_index, local_world, pid, capabilities: None };
    Member::new(Now::ZERO, format!("{host}{local_index}"), String::new(), facts, JobSpec::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(of: &[(&str, u32, u32)]) -> Members {
        of.iter().map(|(h, l, w)| (format!("{h}:{l}"), member(h, *l, *w))).collect()
    }

    #[test]
    fn a_peer_that_claims_billions_of_workers_costs_nothing() {
        let config = CoordinatorConfig::new("x", 1000);
        let hosts: Vec<String> = (0..900).map(|i| format!("h{i}")).collect();
        let all: Vec<(&str, u32, u32)> = hosts.iter().map(|h| (h.as_str(), 0, u32::MAX)).collect();
        let (members, begin) = (members(&all), std::time::Instant::now());
        let text = missing(&config, &members).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(1), "it took {:?}", begin.elapsed());
        assert!(
            text.starts_with("100 of 1000 workers missing: host h0 local 1, host h0 local 2, "),
            "{text}"
        );
        assert!(
            text.contains(" and 84 more; here: host h0 local 0, ") && text.ends_with(" and 884 more"),
            "{text}"
        );
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

//! What holds after every event, and at the end.

use super::group::{Group, State};
use super::process::{Doing, End, Process};
use super::sizes::Sizes;
use super::world::Setting;
use octrain_coordinator::job::{Job, Outcome};
use octrain_coordinator::membership::Member;
use octrain_proto::v1::{AbortKind, Generation};
use std::collections::BTreeMap;

/// Messages of an end that is right whatever is left.
const ENDS: [&str; 2] = [
    "generations in a row have ended before a step was finished",
    "none of those who are left has the job's state",
];

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Checks {
    /// Weights by the generation and the step that made them.
    history: BTreeMap<(u64, u64), u64>,
    /// The last step that was done.
    furthest: u64,
    /// The newest generation that has done a step.
    stepping: u64,
    /// All generations before this one are over.
    over: u64,
    /// A process was asked to stop, and all with it.
    pub interrupted: bool,
    /// Another number of workers was wanted.
    pub resized: bool,
    /// How many there are.
    pub sizes: Sizes,
    /// The last generation of one that has left while the job goes on, and its step.
    parted: Vec<(u64, u64)>,
    /// When the job ended: how many were left, and whether none of them had its state.
    left: (usize, bool),
}

impl Checks {
    /// The coordinator says that all generations before one are over.
    pub fn over(&mut self, generation: u64) -> Result<(), String> {
        match generation > self.over {
            true => self.over = generation,
            false => {
                return Err(format!("generation {generation} ends what ended with {} already", self.over));
            }
        }
        Ok(())
    }

    /// A process is told of its generation, standing so.
    pub fn formed(
        &mut self,
        formed: &Generation,
        standing: Option<State>,
        groups: &mut BTreeMap<u64, Group>,
        least: usize,
    ) -> Result<(), String> {
        let number = formed.number;
        if formed.roster.len() < least {
            return Err(format!(
                "generation {number} has {} workers, fewer than {least}",
                formed.roster.len()
            ));
        }
        let group = groups.entry(number).or_insert_with(|| Group::new(formed));
        if !group.is(formed) {
            return Err(format!(
                "two rosters of generation {number}: {:?} and {:?}",
                group.roster, formed.roster
            ));
        }
        if formed.roster.get(formed.rank as usize).is_none_or(|p| p.rank != formed.rank) {
            return Err(format!("generation {number} has no rank {}", formed.rank));
        }
        if formed.source.is_some() && standing.is_none() != formed.joined.contains(&formed.rank) {
            return Err(format!(
                "generation {number}: rank {} stands at {standing:?}, and {:?} have no state",
                formed.rank, formed.joined
            ));
        }
        if formed.source.is_none() && standing.is_some_and(|s| s.step > 0) {
            return Err(format!(
                "generation {number} begins anew, and rank {} stands at {standing:?}",
                formed.rank
            ));
        }
        Ok(())
    }

    /// All of a generation have entered a step.
    pub fn steps(&mut self, generation: u64) -> Result<(), String> {
        if generation < self.stepping {
            return Err(format!("generation {generation} steps, and {} has stepped", self.stepping));
        }
        self.stepping = generation;
        Ok(())
    }

    /// A process has finished a step.
    pub fn finished(&mut self, generation: u64, state: State) -> Result<(), String> {
        self.furthest = self.furthest.max(state.step);
        let known = *self.history.entry((generation, state.step)).or_insert(state.hash);
        match known == state.hash {
            true => Ok(()),
            false => Err(format!("generation {generation}: step {} has two results", state.step)),
        }
    }

    /// The job has just ended: who is left by what was done to them, whatever the coordinator takes them for.
    pub fn ended(&mut self, processes: &[Process], job: &Job) {
        let done = |p: &&Process| p.end == Some(End::Done) || p.doing == Doing::Leave && !p.harmed;
        let drained =
            |p: &Process| p.member.as_ref().and_then(|name| job.members.get(name)).is_some_and(|m| m.drained);
        let well = |p: &&Process| p.lives() && !p.harmed && p.formed.is_some() && !drained(p);
        let left = processes.iter().filter(|p| done(p) || well(p)).count();
        self.left = (left, !processes.iter().any(|p| well(&p) && p.state.is_some()));
    }

    /// A process is told that it has left.
    pub fn drained(&mut self, p: &Process) -> Result<(), String> {
        if p.leaving.is_none() && !self.resized {
            return Err("it has left, and nobody has asked for that".into());
        }
        self.parted.push((p.generation, p.state.map_or(0, |s| s.step)));
        Ok(())
    }

    /// The state that all of a generation go on from.
    pub fn taken_on(&self, generation: u64, state: State) -> Result<(), String> {
        let further = |(of, step): &&(u64, u64)| *of < generation && *step > state.step;
        match self.parted.iter().find(further) {
            Some((_, step)) => Err(format!(
                "generation {generation} goes on from {state:?}, and one has left with step {step}"
            )),
            None => Ok(()),
        }
    }

    /// The run is over.
    pub fn at_end(
        &self,
        processes: &[Process],
        job: &Job,
        setting: &Setting,
        told: &[String],
    ) -> Result<(), String> {
        let refused = processes.iter().position(|p| p.end == Some(End::Refused) && !p.harmed);
        if let Some(process) = refused {
            return Err(format!("process {process} was refused"));
        }
        let untold = |m: &&Member| {
            let process = processes.get((m.facts.pid - 1000) as usize);
            let told = |p: &Process| p.end == Some(End::Told) && !p.harmed && p.formed.is_some();
            m.drained && process.is_some_and(told)
        };
        // Where the job fails just then, it may hear of that first.
        let hears = setting.bad_network == 0 && matches!(job.outcome(), Some(Outcome::Finished { .. }));
        if let Some(member) = job.members.values().find(untold).filter(|_| hears) {
            return Err(format!("one that has left was never told so: {member:?}"));
        }
        if let Some(member) = job.members.values().find(|m| m.drained && (m.failed || m.dropped.is_some())) {
            return Err(format!("one that has left counts as failed: {member:?}"));
        }
        // Whom the job went on without was harmed, or is one of a place that nobody can reach.
        for member in job.members.values().filter(|m| m.dropped.is_some()) {
            let process = (member.facts.pid - 1000) as usize;
            if processes.get(process).is_none_or(|p| !p.harmed) {
                return Err(format!(
                    "process {process} was dropped, and nothing was done to it: {:?}",
                    member.dropped
                ));
            }
        }
        let lines = told.iter().filter(|line| line.contains("coordinator:")).count() as u64;
        let most = 40 + 40 * (setting.faults + 1) + 20 * u64::from(setting.world);
        if lines > most {
            return Err(format!("the coordinator has said {lines} lines, more than {most}"));
        }
        match job.outcome() {
            None | Some(Outcome::Retired { .. }) => Err("the job has not ended".into()),
            Some(Outcome::Finished { interrupted }) => {
                if interrupted && !self.interrupted {
                    return Err("the job was interrupted by nobody".into());
                }
                let left = processes.iter().filter(|p| p.end == Some(End::Done));
                let mut short = left.filter(|p| p.state.is_none_or(|s| s.step < setting.steps));
                if !interrupted && let Some(p) = short.next() {
                    return Err(format!("the job is finished, and a worker left at {:?}", p.state));
                }
                if !interrupted && self.furthest < setting.steps {
                    return Err("the job is finished, and nobody has done the last step".into());
                }
                Ok(())
            }
            Some(Outcome::Failed { abort }) => {
                let (left, without_state) = self.left;
                let few = left < setting.min_world as usize || without_state;
                let right = match abort.kind() {
                    AbortKind::WorkerLost | AbortKind::WorkerFailed => {
                        // Before the start a worker that fails ends it.
                        let early = job.plan.is_none();
                        setting.faults > 0
                            && (few || early || ENDS.iter().any(|end| abort.message.contains(end)))
                    }
                    AbortKind::RegisterTimeout => setting.faults > 0,
                    // One was asked to stop before its plan had reached it.
                    AbortKind::Shutdown => self.interrupted,
                    _ => false,
                };
                match right {
                    true => Ok(()),
                    false => Err(format!("the job failed with {left} workers left: {}", abort.message)),
                }
            }
        }
    }
}

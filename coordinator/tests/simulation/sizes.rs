//! How many workers a job has: no more than are wanted, and of those beyond it the highest ranks leave, no more than have to.

use super::process::Process;
use octrain_coordinator::job::Job;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Sizes {
    /// The number that the coordinator has taken last; none: that of the start.
    wanted: Option<u32>,
    /// The newest generation.
    number: u64,
    /// Its processes, in the order of their ranks.
    ranks: Vec<usize>,
}

impl Sizes {
    /// The coordinator has taken a wish.
    pub fn taken(&mut self, workers: u32) {
        self.wanted = Some(workers);
    }

    /// A worker hears of a generation, the first of its members to hear so.
    pub fn formed(
        &mut self,
        number: u64,
        job: &Job,
        processes: &[Process],
        world: u32,
    ) -> Result<(), String> {
        if number <= self.number {
            return Ok(());
        }
        let process = |pid: u32| (pid - 1000) as usize;
        // Whatever has become of them in the same moment.
        let of_it = job.members.values().filter(|m| m.generation == number && !m.joins);
        let mut members: Vec<(Option<u32>, usize)> = of_it.map(|m| (m.rank, process(m.facts.pid))).collect();
        members.sort_unstable();
        let ranks: Vec<usize> = members.into_iter().map(|(_, process)| process).collect();
        let before = std::mem::replace(&mut self.ranks, ranks.clone());
        self.number = number;
        // Where not all who were asked are spared, nobody goes: all are to stop.
        if ranks.iter().any(|&p| processes[p].leaving.is_some()) {
            return Ok(());
        }
        // One whose state the others need leaves behind the next boundary.
        let steps = |p: usize| processes[p].state.map_or(0, |s| s.step);
        let most = ranks.iter().map(|&p| steps(p)).max().unwrap_or_default();
        let furthest: Vec<usize> = ranks.iter().copied().filter(|&p| steps(p) == most).collect();
        let needed = |p: usize| furthest == [p];
        let wanted = self.wanted.unwrap_or(world) as usize;
        let kept = usize::from(furthest.len() == 1);
        if ranks.len() > wanted + kept {
            return Err(format!("generation {number} has {} workers, and {wanted} are wanted", ranks.len()));
        }
        let left = job.members.values().filter(|m| m.drained).map(|m| process(m.facts.pid));
        let left: Vec<usize> = left.filter(|&p| processes[p].leaving.is_none()).collect();
        let place = |p: usize| before.iter().position(|&other| other == p);
        let Some(lowest) = left.iter().filter_map(|&p| place(p)).min() else { return Ok(()) };
        if ranks.len() < wanted {
            return Err(format!(
                "generation {number} has {} workers, {wanted} are wanted, and one has left whom nobody asked",
                ranks.len()
            ));
        }
        let above = ranks.iter().find(|&&p| place(p).is_some_and(|rank| rank > lowest) && !needed(p));
        match above {
            Some(p) => Err(format!(
                "rank {lowest} has left generation {number}, and process {p} of a higher one has not"
            )),
            None => Ok(()),
        }
    }
}

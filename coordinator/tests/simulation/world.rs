//! One virtual clock, one coordinator, some machines with a launcher and worker processes, and what goes wrong with them.

use super::check::Checks;
use super::group::Group;
use super::host::{Asker, Call, Host};
use super::mutant::Mutant;
use super::process::{Doing, End, Process};
use super::rng::{Rng, mixed};
use octrain_coordinator::CoordinatorConfig;
use octrain_coordinator::job::{Outcome, Reply};
use octrain_coordinator::refusal::Refusal;
use octrain_proto::v1::{AbortKind, Regroup};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// What may go wrong with one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Workers.
    pub world: u32,
    /// Fewest that it goes on with.
    pub min_world: u32,
    /// Workers beyond those of the start that it may grow by, and that come.
    pub more: u32,
    /// Steps.
    pub steps: u64,
    /// Faults.
    pub faults: u64,
    /// Replacements that a launcher may start for each place.
    pub restarts: u32,
    /// Calls in a hundred that are lost, come twice, or take long.
    pub bad_network: u64,
}

/// What happens next.
#[derive(Debug)]
pub(super) enum What {
    Arrive(Call),
    Answer(Asker, Box<Result<Reply, Refusal>>),
    Tick,
    /// A process goes on with what it does.
    Go {
        process: usize,
        turn: u64,
    },
    Beat {
        process: usize,
    },
    Regroup {
        process: usize,
        told: Regroup,
    },
    Ended {
        process: usize,
        outcome: Outcome,
    },
    /// Collective `n` of its generation is done, as far as this process knows.
    Completed {
        process: usize,
        turn: u64,
        n: usize,
    },
    /// Its collective has failed.
    Broken {
        process: usize,
        turn: u64,
    },
    /// A launcher sees that a process is gone.
    Exited {
        process: usize,
    },
    Start {
        place: usize,
    },
    /// One that waits for a boundary, to leave there, cannot wait any longer.
    Overdue {
        process: usize,
    },
    Fault,
}

struct Next {
    at: u64,
    order: u64,
    what: What,
}

impl PartialEq for Next {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Next {}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Next {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The world.
pub struct World {
    pub(super) setting: Setting,
    pub(super) rng: Rng,
    /// Milliseconds.
    pub now: u64,
    pub(super) order: u64,
    queue: BinaryHeap<Reverse<Next>>,
    pub(super) host: Host,
    /// All that were ever started.
    pub processes: Vec<Process>,
    /// Generations by number.
    pub groups: BTreeMap<u64, Group>,
    pub(super) restarts: Vec<u32>,
    /// What must hold.
    pub checks: Checks,
    /// What happened, for people.
    pub told: Vec<String>,
    /// When the last fault was over.
    pub calm: u64,
    pub(super) outcome: Option<Outcome>,
    /// The hang that the coordinator told of last.
    pub(super) told_of: String,
    /// Since when the coordinator stands still, on and off.
    pub(super) stands_still: u64,
    pub(super) timeout: u64,
    pub(super) interval: u64,
}

/// Virtual time within which a run has to have ended.
pub const LIMIT: u64 = 600_000;

impl World {
    /// A run that a seed decides.
    pub fn new(seed: u64, setting: Setting, mutant: Option<Mutant>) -> Self {
        let config = CoordinatorConfig::new("127.0.0.1:0", setting.world)
            .with_min_world(setting.min_world)
            .with_max_world(setting.world + setting.more);
        let (timeout, interval) =
            (config.heartbeat_timeout.as_millis() as u64, config.heartbeat_interval.as_millis() as u64);
        let mut world = Self {
            setting,
            rng: Rng::new(mixed(seed) ^ seed),
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            host: Host::new(config, mutant),
            processes: Vec::new(),
            groups: BTreeMap::new(),
            restarts: vec![0; (setting.world + setting.more) as usize],
            checks: Checks::default(),
            told: Vec::new(),
            calm: 0,
            outcome: None,
            told_of: String::new(),
            stands_still: 0,
            timeout,
            interval,
        };
        for place in 0..setting.world as usize {
            let at = world.rng.between(0, 500);
            world.at(at, What::Start { place });
        }
        for place in setting.world as usize..(setting.world + setting.more) as usize {
            let at = world.rng.between(2000, 3000 + setting.steps * 400);
            world.at(at, What::Start { place });
        }
        // Within the time that all may take, or close behind the one before.
        let mut at = 0;
        for _ in 0..setting.faults {
            at = match world.rng.in_hundred(50) {
                true => world.rng.between(200, 3000 + setting.steps * 600),
                false => at + world.rng.between(0, 2500),
            };
            world.at(at, What::Fault);
        }
        world.at(50, What::Tick);
        world
    }

    /// Runs to the end; what it found wrong.
    pub fn run(&mut self) -> Result<(), String> {
        while let Some(Reverse(next)) = self.queue.pop() {
            if next.at > LIMIT {
                return Err(format!(
                    "nothing has ended {} s after the last fault",
                    (LIMIT - self.calm) / 1000
                ));
            }
            self.now = next.at;
            self.happen(next.what)?;
            if self.host.gone && self.processes.iter().all(|p| !p.lives()) {
                break;
            }
        }
        self.untold()?;
        self.checks.at_end(&self.processes, self.host.job(), &self.setting, &self.told)
    }

    /// How the job ended.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    pub(super) fn at(&mut self, at: u64, what: What) {
        self.order += 1;
        self.queue.push(Reverse(Next { at, order: self.order, what }));
    }

    pub(super) fn after(&mut self, least: u64, most: u64, what: What) {
        let at = self.now + self.rng.between(least, most);
        self.at(at, what);
    }

    pub(super) fn say(&mut self, text: String) {
        let line = format!("{:>7} {text}", self.now);
        self.told.push(line);
    }

    /// Whether something that happens to a process waits, as it is stopped.
    pub(super) fn postponed(&mut self, process: usize, what: What) -> Option<What> {
        let paused = self.processes[process].paused;
        if paused <= self.now {
            return Some(what);
        }
        self.at(paused, what);
        None
    }

    pub(super) fn happen(&mut self, what: What) -> Result<(), String> {
        let of = match &what {
            What::Answer(Asker::Process { process, .. } | Asker::Beat { process, .. }, _)
            | What::Answer(Asker::Watch { process }, _)
            | What::Go { process, .. }
            | What::Beat { process }
            | What::Regroup { process, .. }
            | What::Ended { process, .. }
            | What::Completed { process, .. }
            | What::Broken { process, .. }
            | What::Overdue { process } => Some(*process),
            _ => None,
        };
        let what = match of {
            Some(process) if !self.processes[process].lives() => return Ok(()),
            Some(process) => {
                let due = self.postponed(process, what);
                match due.and_then(|what| self.held_up(process, what)) {
                    Some(what) => what,
                    None => return Ok(()),
                }
            }
            None => what,
        };
        match what {
            What::Arrive(call) => {
                let mut out = Vec::new();
                self.host.arrive(self.now, call, &mut out);
                self.leaves(out)
            }
            What::Tick => {
                if !self.host.gone {
                    let mut out = Vec::new();
                    self.host.tick(self.now, &mut out);
                    self.leaves(out)?;
                    self.hangs()?;
                    self.at(self.now + 50, What::Tick);
                }
                Ok(())
            }
            What::Answer(asker, answer) => self.answered(asker, *answer),
            What::Go { process, turn } => match self.processes[process].turn == turn {
                true => self.go(process),
                false => Ok(()),
            },
            What::Beat { process } => {
                self.beat(process);
                Ok(())
            }
            What::Regroup { process, told } => {
                self.regrouped(process, told);
                Ok(())
            }
            What::Ended { process, outcome } => {
                if let Outcome::Failed { abort } = outcome {
                    self.end(process, End::Told, &abort.message);
                }
                Ok(())
            }
            What::Completed { process, turn, n } => match self.processes[process].turn == turn {
                true => self.completed(process, n),
                false => Ok(()),
            },
            What::Broken { process, turn } => {
                if self.processes[process].turn == turn && self.processes[process].doing == Doing::Train {
                    self.part(process, "its collective failed");
                }
                Ok(())
            }
            What::Exited { process } => {
                self.exited(process);
                Ok(())
            }
            What::Start { place } => {
                let process = self.processes.len();
                self.processes.push(Process::new(place, self.now));
                self.say(format!("process {process} starts at place {place}"));
                self.ask(process);
                self.after(0, self.interval, What::Beat { process });
                Ok(())
            }
            What::Overdue { process } => {
                self.overdue(process);
                Ok(())
            }
            What::Fault => {
                self.fault();
                Ok(())
            }
        }
    }

    /// The kind of the cause that ended the job, if one did.
    pub fn cause(&self) -> Option<AbortKind> {
        match &self.outcome {
            Some(Outcome::Failed { abort }) => Some(abort.kind()),
            _ => None,
        }
    }
}

//! The coordinator's process, as its driver runs the job: an inbox, calls that wait, a clock that stands still while it does.

use super::mutant::Mutant;
use super::process::Process;
use octrain_coordinator::CoordinatorConfig;
use octrain_coordinator::clock::Clock;
use octrain_coordinator::job::{self, Answer, Event, Job, Outcome, Reply, Wait, Wakes};
use octrain_coordinator::limits;
use octrain_coordinator::refusal::Refusal;
use octrain_proto::v1::Regroup;
use std::time::Duration;

/// Who asked: a process, in which turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// What it does next depends on the answer.
    Process { process: usize, turn: u64 },
    /// Its heartbeat of a generation.
    Beat { process: usize, generation: u64 },
    /// Its watch.
    Watch { process: usize },
    /// The launcher of a process that has ended.
    Launcher { process: usize },
    /// Whoever wants another number of workers.
    Operator { workers: u32 },
    /// Nobody waits for the answer.
    Nobody,
}

/// A call under way.
#[derive(Debug, Clone)]
pub struct Call {
    /// What is asked.
    pub event: Event,
    /// How long it may be kept, ms.
    pub wait: u64,
    /// Who asks.
    pub asker: Asker,
}

/// What leaves the coordinator.
#[derive(Debug)]
pub enum Out {
    /// An answer.
    Answer(Asker, Result<Reply, Refusal>),
    /// To all who watch: a generation is over.
    Regroup(Regroup),
    /// To all who watch: the job has ended.
    Ended(Outcome),
    /// A line of the log.
    Says(String),
}

struct Parked {
    call: Call,
    until: u64,
}

/// The coordinator.
pub struct Host {
    /// The job; taken out while a transition runs.
    job: Option<Job>,
    config: CoordinatorConfig,
    clock: Clock,
    parked: Vec<Parked>,
    /// What has arrived while it stood still.
    inbox: Vec<Call>,
    /// Until when it stands still.
    pub stopped: u64,
    /// It has gone, as the job has ended and everyone knows.
    pub gone: bool,
    /// What it decides wrongly.
    mutant: Option<Mutant>,
}

impl Host {
    /// A coordinator that starts at 0.
    pub fn new(config: CoordinatorConfig, mutant: Option<Mutant>) -> Self {
        Self {
            job: Some(Job::new(&config, 1)),
            config,
            clock: Clock::new(Duration::ZERO),
            parked: Vec::new(),
            inbox: Vec::new(),
            stopped: 0,
            gone: false,
            mutant,
        }
    }

    /// The job as it stands.
    pub fn job(&self) -> &Job {
        self.job.as_ref().expect("put back after every transition")
    }

    /// A call arrives.
    pub fn arrive(&mut self, now: u64, call: Call, out: &mut Vec<Out>) {
        if now < self.stopped {
            self.inbox.push(call);
        } else {
            self.take(now, call, out);
        }
    }

    /// It looks at its clock, after it has taken in what has arrived.
    pub fn tick(&mut self, now: u64, out: &mut Vec<Out>) {
        if now < self.stopped {
            return;
        }
        for call in std::mem::take(&mut self.inbox) {
            self.take(now, call, out);
        }
        let late = self.clock.look(Duration::from_millis(now));
        if late > self.config.heartbeat_interval {
            self.step(now, Event::HeldUp { by: late }, out);
        }
        self.step(now, Event::Tick, out);
        let (expired, parked) = std::mem::take(&mut self.parked).into_iter().partition(|p| p.until <= now);
        self.parked = parked;
        let expired: Vec<Parked> = expired;
        for parked in expired {
            self.ask_again(now, parked, Wait::Expired, out);
        }
        let at = self.clock.now(Duration::from_millis(now));
        self.gone = self.job().outcome().is_some() && self.job().drained(at, &self.config);
    }

    /// Forgets the calls of a process whose connections are gone.
    pub fn hung_up(&mut self, process: usize) {
        self.parked
            .retain(|p| !matches!(p.call.asker, Asker::Process { process: other, .. } if other == process));
    }

    fn take(&mut self, now: u64, call: Call, out: &mut Vec<Out>) {
        let event = match limits::admit(call.event.clone()) {
            Ok(event) => event,
            Err(refusal) => return out.push(Out::Answer(call.asker, Err(refusal))),
        };
        let answer = self.step(now, event, out);
        self.settle(answer, Parked { until: now + call.wait, call }, out);
    }

    fn settle(&mut self, answer: Answer, parked: Parked, out: &mut Vec<Out>) {
        match answer {
            Answer::Reply(reply) => out.push(Out::Answer(parked.call.asker, Ok(reply))),
            Answer::Refuse(refusal) => out.push(Out::Answer(parked.call.asker, Err(refusal))),
            Answer::Park => self.parked.push(parked),
            Answer::None => {}
        }
    }

    fn ask_again(&mut self, now: u64, parked: Parked, again: Wait, out: &mut Vec<Out>) {
        let event = match parked.call.event.clone() {
            Event::GetPlan { header, .. } => Event::GetPlan { header, wait: again },
            Event::Attach { header, standing, message, .. } => {
                Event::Attach { header, standing, message, wait: again }
            }
            other => other,
        };
        let answer = self.step(now, event, out);
        self.settle(answer, parked, out);
    }

    fn step(&mut self, now: u64, event: Event, out: &mut Vec<Out>) -> Answer {
        let event = match self.mutant {
            Some(mutant) => match mutant.event(self.job(), event) {
                Some(event) => event,
                None => return Answer::Reply(Reply::Done),
            },
            None => event,
        };
        let job = self.job.take().expect("put back after every transition");
        let asked = self.mutant.map(|_| event.clone());
        let mut step = job::step(self.clock.now(Duration::from_millis(now)), job, &self.config, event);
        if let (Some(mutant), Some(asked)) = (self.mutant, asked) {
            step.answer = mutant.answer(&step.job, &asked, step.answer);
        }
        self.job = Some(step.job);
        if let (Some(Mutant::EndsGenerationsTwice), Some(told)) = (self.mutant, &step.regroup) {
            out.push(Out::Regroup(told.clone()));
        }
        out.extend(step.reason.map(Out::Says));
        out.extend(step.regroup.map(Out::Regroup));
        out.extend(step.ended.map(Out::Ended));
        if step.wakes == Wakes::Everybody {
            for parked in std::mem::take(&mut self.parked) {
                self.ask_again(now, parked, Wait::Again, out);
            }
        }
        step.answer
    }
}

/// Who calls, in the generation that it speaks in.
pub fn header(process: &Process) -> octrain_proto::v1::Header {
    octrain_proto::v1::Header {
        job_id: "octrain".into(),
        generation: process.generation,
        member: process.member.clone().unwrap_or_default(),
    }
}

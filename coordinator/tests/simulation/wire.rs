//! Calls between processes and the coordinator, over a network that may lose them.

use super::hang;
use super::host::{Asker, Call, Out, header};
use super::process::{Doing, End, Process};
use super::worker;
use super::world::{What, World};
use octrain_coordinator::job::{Beat, Event, Reply, Wait};
use octrain_coordinator::refusal::Refusal;
use octrain_proto::v1::Standing;

impl World {
    /// What the coordinator sends goes its way.
    pub(super) fn leaves(&mut self, out: Vec<Out>) -> Result<(), String> {
        for one in out {
            match one {
                Out::Says(text) => self.say(format!("coordinator: {text}")),
                Out::Answer(asker, answer) => {
                    self.spares(asker, &answer)?;
                    self.sized(asker, &answer)?;
                    self.after(1, 10, What::Answer(asker, Box::new(answer)));
                }
                Out::Regroup(told) => {
                    self.checks.over(told.generation)?;
                    for process in self.watching() {
                        let told = told.clone();
                        self.after(1, 10, What::Regroup { process, told });
                    }
                }
                Out::Ended(outcome) => {
                    self.outcome = Some(outcome.clone());
                    let processes = std::mem::take(&mut self.processes);
                    self.checks.ended(&processes, self.host.job());
                    self.processes = processes;
                    for process in self.watching() {
                        let outcome = outcome.clone();
                        self.after(1, 10, What::Ended { process, outcome });
                    }
                }
            }
        }
        Ok(())
    }

    /// What an answer says of how many workers there are, and are to be.
    fn sized(&mut self, asker: Asker, answer: &Result<Reply, Refusal>) -> Result<(), String> {
        let formed = match (asker, answer) {
            (Asker::Operator { workers }, Ok(Reply::Resized(_))) => {
                self.checks.sizes.taken(workers);
                None
            }
            (_, Ok(Reply::Attached(formed, _))) => formed.as_ref(),
            (_, Ok(Reply::Plan(plan))) => plan.generation.as_ref(),
            _ => None,
        };
        let Some(formed) = formed.filter(|formed| formed.source.is_some() || !formed.roster.is_empty())
        else {
            return Ok(());
        };
        self.checks.sizes.formed(
            formed.number,
            self.host.job(),
            &self.processes,
            self.setting.world + self.setting.more,
        )
    }

    /// Processes that a push of the coordinator's reaches.
    pub(super) fn watching(&self) -> Vec<usize> {
        let reached = |p: &Process| p.lives() && p.watch.is_some() && p.cut <= self.now;
        (0..self.processes.len()).filter(|&i| reached(&self.processes[i])).collect()
    }

    /// A call that a process makes and waits for: what it does now is what it asks.
    pub(super) fn ask(&mut self, process: usize) {
        let p = &mut self.processes[process];
        p.turn += 1;
        let turn = p.turn;
        let standing = p.state.map(|s| Standing { step: s.step, stage: 0 });
        let (header, message) = (header(p), format!("process {process}"));
        let (event, wait) = match p.doing {
            Doing::Register => (Event::Register(Box::new(worker::request(process, p.place))), 0),
            Doing::Plan => (Event::GetPlan { header, wait: Wait::First }, 5000),
            Doing::Attach => (Event::Attach { header, standing, message, wait: Wait::First }, 2000),
            Doing::Leave => (Event::Leave { header, interrupted: p.interrupt, before_plan: false }, 0),
            Doing::Build | Doing::Train | Doing::Gone => return,
        };
        self.send(Call { event, wait, asker: Asker::Process { process, turn } }, process);
        // No answer in time: it asks again.
        self.at(self.now + wait + 2 * self.timeout, What::Go { process, turn });
    }

    /// A call goes its way, over a network that may lose it, take long, or bring it twice.
    pub(super) fn send(&mut self, call: Call, process: usize) {
        let cut = self.processes[process].cut;
        let fate = if self.rng.in_hundred(self.setting.bad_network) { self.rng.between(0, 3) } else { 9 };
        let retry = match call.asker {
            Asker::Process { process, turn } => Some(What::Go { process, turn }),
            _ => None,
        };
        if matches!(call.asker, Asker::Beat { .. }) {
            let (now, lost) = (self.now, cut > self.now || matches!(fate, 0 | 2));
            let p = &mut self.processes[process];
            match lost {
                // So many of them in a row are silence.
                true => p.harmed |= now > p.heard + 2500,
                false => p.heard = now,
            }
        }
        if cut > self.now || self.host.gone || fate == 0 {
            // Its connection breaks, or it finds none.
            if let Some(retry) = retry {
                self.after(310, 800, retry);
            }
            // What was on its way may come all the same.
            if !self.host.gone && self.rng.in_hundred(50) {
                let at = cut.max(self.now) + self.rng.between(1, 3000);
                self.at(at, What::Arrive(Call { asker: Asker::Nobody, ..call }));
            }
            return;
        }
        match fate {
            1 => {
                let twice = Call { asker: Asker::Nobody, ..call.clone() };
                self.after(1, 4000, What::Arrive(twice));
                self.after(1, 10, What::Arrive(call));
            }
            2 => self.after(100, 2000, What::Arrive(call)),
            _ => self.after(1, 10, What::Arrive(call)),
        }
    }

    pub(super) fn beat(&mut self, process: usize) {
        self.after(self.interval, self.interval + 5, What::Beat { process });
        let p = &self.processes[process];
        if p.member.is_none() {
            return;
        }
        // Time in which it did not run at all is not the coordinator's silence.
        let held_up = (self.now - p.looked).saturating_sub(self.timeout + self.interval);
        let (now, given_up) = (self.now, 2 * self.timeout + self.interval);
        let p = &mut self.processes[process];
        (p.answered, p.looked) = (p.answered + held_up, now);
        if now > p.answered + given_up && p.doing != Doing::Leave {
            return self.end(process, End::GaveUp, "the coordinator does not answer");
        }
        let (generation, step) = (p.generation, p.stepped);
        let (collectives, connected, leaving) = (p.collectives as u64, p.connected, p.leaving.is_some());
        let beat = Beat { step, collectives, connected, leaving, at: hang::at(p) };
        let beat = Event::Heartbeat(header(p), beat);
        self.send(Call { event: beat, wait: 0, asker: Asker::Beat { process, generation } }, process);
        if self.processes[process].watch.is_none() {
            let watch = Event::Watch { header: header(&self.processes[process]) };
            self.send(Call { event: watch, wait: 0, asker: Asker::Watch { process } }, process);
        }
    }
}

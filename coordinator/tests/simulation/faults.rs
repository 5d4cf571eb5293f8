//! How processes end, what their launchers make of it, and what goes wrong.

use super::host::{Asker, Call, header};
use super::process::{Doing, End, Process};
use super::worker;
use super::world::{What, World};
use octrain_coordinator::job::{Event, Reply};
use octrain_coordinator::membership::Member;
use octrain_coordinator::refusal::Refusal;
use octrain_proto::v1::{Departure, ExitedRequest, FailureKind};

impl World {
    /// A process ends.
    pub(super) fn end(&mut self, process: usize, end: End, why: &str) {
        if !self.processes[process].lives() {
            return;
        }
        self.say(format!("process {process} ends ({end:?}): {why}"));
        self.processes[process].end = Some(end);
        self.gone_from_group(process);
        let p = &mut self.processes[process];
        p.doing = Doing::Gone;
        let (member, watch) = (p.member.clone(), p.watch.take());
        self.host.hung_up(process);
        if let (Some(member), Some(watch)) = (member, watch)
            && self.rng.in_hundred(80)
        {
            let event = Event::Disconnected { member, watch };
            self.after(1, 200, What::Arrive(Call { event, wait: 0, asker: Asker::Nobody }));
        }
        // A launcher tells of what ended otherwise than well.
        if end != End::Done && self.rng.in_hundred(90) {
            self.after(10, 300, What::Exited { process });
        }
    }

    pub(super) fn exited(&mut self, process: usize) {
        if self.host.gone {
            return;
        }
        let p = &self.processes[process];
        let (host, local_index) = worker::place(p.place);
        let request = ExitedRequest {
            job_id: "octrain".into(),
            generation: 0,
            host,
            local_index,
            pid: worker::pid(process),
            token: worker::token(process),
            status: "was killed by signal 9".into(),
        };
        let asker = Asker::Launcher { process };
        self.after(1, 10, What::Arrive(Call { event: Event::Exited(Box::new(request)), wait: 0, asker }));
    }

    pub(super) fn launcher_hears(&mut self, process: usize, answer: Result<Reply, Refusal>) {
        let place = self.processes[process].place;
        let taken = self.processes.iter().any(|p| p.lives() && p.place == place);
        // One that has left is no restart, and wanted back where it had left for want of room.
        if self.processes[process].end == Some(End::Drained) {
            match answer {
                Ok(Reply::Vacant { recalled: true }) if !taken => {
                    self.after(300, 2000, What::Start { place })
                }
                Ok(Reply::Vacant { .. }) => self.after(2000, 2000, What::Exited { process }),
                _ => {}
            }
            return;
        }
        if matches!(answer, Ok(Reply::GoesOn(true))) && self.restarts[place] < self.setting.restarts && !taken
        {
            self.restarts[place] += 1;
            self.after(300, 2000, What::Start { place });
        }
    }

    /// One that leaves cannot wait for a boundary any longer.
    pub(super) fn overdue(&mut self, process: usize) {
        let p = &mut self.processes[process];
        if p.departs(self.now) != Departure::Boundary || p.doing == Doing::Leave {
            return;
        }
        // What follows of that is its own doing.
        p.harmed = true;
        self.checks.interrupted = true;
        let message = "it cannot wait for a boundary".into();
        let event = Event::ReportFailure { header: header(p), message, kind: FailureKind::Leaving };
        self.send(Call { event, wait: 0, asker: Asker::Nobody }, process);
        self.end(process, End::Fault, "it leaves before a boundary has come");
    }

    /// One that was asked to stop alone, and has not been answered for long, stops with all; something is the cause of that.
    pub(super) fn gives_up_asking(&mut self, process: usize) {
        let p = &self.processes[process];
        let since = p.leaving.unwrap_or_default();
        let explained = self.host.stopped > since || p.cut > since || p.paused > since;
        if p.departure == Departure::None && p.departs(self.now) == Departure::All {
            self.checks.interrupted |= explained || self.setting.bad_network > 0;
        }
    }

    /// What one is answered that was asked to stop alone: all are only where the minimum does not spare those who were.
    pub(super) fn spares(&mut self, asker: Asker, answer: &Result<Reply, Refusal>) -> Result<(), String> {
        let (Asker::Beat { process, .. }, Ok(Reply::Heartbeat(heard))) = (asker, answer) else {
            return Ok(());
        };
        if heard.departure == Departure::All {
            self.checks.interrupted = true;
            let job = self.host.job();
            let there = |p: &&Process| {
                let member = p.member.as_ref().and_then(|name| job.members.get(name));
                p.lives() && !p.harmed && p.leaving.is_none() && member.is_some_and(Member::counted)
            };
            let (stay, ends) = (
                self.processes.iter().filter(there).count(),
                job.members.values().any(|m| m.left) || job.plan.is_none() || job.outcome().is_some(),
            );
            if stay >= self.setting.min_world as usize && !ends {
                return Err(format!("all stop for process {process}, and {stay} would be left"));
            }
        }
        Ok(())
    }

    /// Something goes wrong.
    pub(super) fn fault(&mut self) {
        let living: Vec<usize> = (0..self.processes.len()).filter(|&i| self.processes[i].lives()).collect();
        if living.is_empty() {
            return;
        }
        let process = living[self.rng.between(0, living.len() as u64 - 1) as usize];
        let draw = self.rng.between(0, 121);
        let long = self.rng.between(200, 20_000);
        let (now, until) = (self.now, self.now + long);
        self.calm = self.calm.max(if draw < 55 { now } else { until });
        let p = &mut self.processes[process];
        match draw {
            0..45 => {
                p.harmed = true;
                self.end(process, End::Fault, "killed");
            }
            45..55 => {
                p.harmed = true;
                let kind = if draw < 50 { FailureKind::Own } else { FailureKind::Communication };
                if p.member.is_some() {
                    let event =
                        Event::ReportFailure { header: header(p), message: "its disk is full".into(), kind };
                    self.send(Call { event, wait: 0, asker: Asker::Nobody }, process);
                }
                self.end(process, End::Fault, "failed by itself");
            }
            55..70 => {
                p.harmed |= long > self.timeout / 2;
                p.paused = p.paused.max(until);
                self.say(format!("process {process} is stopped for {long} ms"));
            }
            70..85 => {
                p.harmed |= long > self.timeout / 5;
                p.cut = until;
                let (member, watch) = (p.member.clone(), p.watch.take());
                self.say(format!("process {process} is cut off from the coordinator for {long} ms"));
                if let (Some(member), Some(watch)) = (member, watch) {
                    let event = Event::Disconnected { member, watch };
                    self.after(1, 3000, What::Arrive(Call { event, wait: 0, asker: Asker::Nobody }));
                }
            }
            85..97 => {
                // Right behind the last time, it has answered little in between.
                if self.host.stopped + self.timeout < now {
                    self.stands_still = now;
                }
                self.host.stopped = self.host.stopped.max(until);
                // Workers give up a coordinator that is silent for long.
                if self.host.stopped - self.stands_still > self.timeout * 2 - 2 * self.interval {
                    self.processes.iter_mut().for_each(|p| p.harmed = true);
                }
                self.say(format!("the coordinator stands still for {long} ms"));
            }
            // Before that, one ends alone that has come to a running job, and else all do.
            100..108 if p.formed.is_none() => {}
            100..108 => {
                p.leaving.get_or_insert(now);
                self.say(format!("process {process} is asked to stop, alone"));
                self.at(now + long, What::Overdue { process });
            }
            108..115 => {
                let workers =
                    self.rng.between(0, u64::from(self.setting.world + self.setting.more) + 1) as u32;
                self.say(format!("the job is to have {workers} workers"));
                let world = self.setting.min_world..=self.setting.world + self.setting.more;
                self.checks.resized |= world.contains(&workers);
                let event = Event::Resize { workers };
                self.after(1, 10, What::Arrive(Call { event, wait: 0, asker: Asker::Operator { workers } }));
            }
            115..122 => self.hang(process, long),
            _ => {
                p.interrupt = true;
                self.checks.interrupted = true;
                self.say(format!("process {process} is asked to stop"));
            }
        }
    }
}

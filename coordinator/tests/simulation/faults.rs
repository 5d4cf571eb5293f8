//! How processes end, what their launchers make of it, and what goes wrong.

use super::host::{Asker, Call, header};
use super::process::{Doing, End};
use super::worker;
use super::world::{What, World};
use octrain_coordinator::job::{Event, Reply};
use octrain_coordinator::refusal::Refusal;
use octrain_proto::v1::{ExitedRequest, FailureKind};

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
        let asker = Asker::Launcher { place: p.place };
        self.after(1, 10, What::Arrive(Call { event: Event::Exited(Box::new(request)), wait: 0, asker }));
    }

    pub(super) fn launcher_hears(&mut self, place: usize, answer: Result<Reply, Refusal>) {
        let taken = self.processes.iter().any(|p| p.lives() && p.place == place);
        if matches!(answer, Ok(Reply::GoesOn(true))) && self.restarts[place] < self.setting.restarts && !taken
        {
            self.restarts[place] += 1;
            self.after(300, 2000, What::Start { place });
        }
    }

    /// Something goes wrong.
    pub(super) fn fault(&mut self) {
        let living: Vec<usize> = (0..self.processes.len()).filter(|&i| self.processes[i].lives()).collect();
        if living.is_empty() {
            return;
        }
        let process = living[self.rng.between(0, living.len() as u64 - 1) as usize];
        let draw = self.rng.between(0, 99);
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
                p.paused = until;
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
            _ => {
                p.interrupt = true;
                self.checks.interrupted = true;
                self.say(format!("process {process} is asked to stop"));
            }
        }
    }
}

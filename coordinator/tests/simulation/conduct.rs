//! What a worker process makes of what it hears, as `octrain`'s session does.

use super::host::Asker;
use super::process::{Doing, End, Process};
use super::world::{What, World};
use octrain_coordinator::job::Reply;
use octrain_coordinator::refusal::Refusal;
use octrain_proto::v1::{Departure, Generation, Regroup};

impl World {
    pub(super) fn answered(&mut self, asker: Asker, answer: Result<Reply, Refusal>) -> Result<(), String> {
        match asker {
            Asker::Nobody | Asker::Operator { .. } => Ok(()),
            Asker::Launcher { process } => {
                self.launcher_hears(process, answer);
                Ok(())
            }
            Asker::Process { process, turn } => {
                let p = &mut self.processes[process];
                p.answered = self.now;
                match p.turn == turn {
                    true => self.told(process, answer),
                    false => Ok(()),
                }
            }
            Asker::Watch { process } => match answer {
                Ok(Reply::Watching { watch, .. }) => {
                    self.processes[process].watch = Some(watch);
                    Ok(())
                }
                Ok(_) => Err("a watch was answered otherwise".into()),
                Err(refusal) => self.refused(process, &refusal),
            },
            Asker::Beat { process, generation } => match answer {
                Ok(Reply::Heartbeat(heard)) => {
                    self.processes[process].answered = self.now;
                    if let Some(abort) = heard.abort {
                        self.end(process, End::Told, &abort.message);
                        return Ok(());
                    }
                    if heard.departure != Departure::None {
                        self.processes[process].departure = heard.departure;
                    }
                    if heard.boundary_wanted {
                        self.processes[process].boundary = generation;
                    }
                    if let Some(told) = heard.regroup {
                        self.regrouped(process, told);
                    }
                    Ok(())
                }
                Ok(_) => Err("a heartbeat was answered otherwise".into()),
                Err(refusal) => self.refused(process, &refusal),
            },
        }
    }

    /// A refusal ends a worker; it is right only where the job, or its part in it, is over.
    pub(super) fn refused(&mut self, process: usize, refusal: &Refusal) -> Result<(), String> {
        let p = &self.processes[process];
        match refusal {
            Refusal::Busy | Refusal::Gone => Ok(()),
            Refusal::Ended(abort) => {
                self.end(process, End::Told, &abort.message);
                Ok(())
            }
            Refusal::Finished if p.joins || p.formed.is_none() => {
                self.end(process, End::Told, "the job is finished");
                Ok(())
            }
            // It says that it leaves again, as the first answer was lost.
            Refusal::Left { .. } | Refusal::Finished if p.doing == Doing::Leave => {
                self.end(process, End::Done, "it has left");
                Ok(())
            }
            other if p.harmed => {
                self.end(process, End::Refused, &other.to_string());
                Ok(())
            }
            other => Err(format!(
                "process {process}, {:?} in generation {}, is refused: {other}",
                p.doing, p.generation
            )),
        }
    }

    /// The answer to what a process does.
    pub(super) fn told(&mut self, process: usize, answer: Result<Reply, Refusal>) -> Result<(), String> {
        let doing = self.processes[process].doing;
        match (doing, answer) {
            (Doing::Register, Ok(Reply::Registered(r))) => {
                let p = &mut self.processes[process];
                (p.member, p.generation, p.doing) = (Some(r.member), r.generation, Doing::Plan);
                self.ask(process);
                Ok(())
            }
            // The place is taken until the coordinator knows of its last process's end, or the job is about to end.
            (Doing::Register, Err(Refusal::Duplicate { .. } | Refusal::Full { .. })) => {
                let turn = self.processes[process].turn;
                self.after(900, 1100, What::Go { process, turn });
                Ok(())
            }
            (Doing::Plan, Ok(Reply::Plan(reply))) => match reply.generation {
                None => {
                    self.ask(process);
                    Ok(())
                }
                Some(formed) if reply.joins => {
                    let p = &mut self.processes[process];
                    (p.joins, p.doing, p.generation) = (true, Doing::Build, formed.number);
                    p.turn += 1;
                    let turn = p.turn;
                    self.after(200, 5000, What::Go { process, turn });
                    Ok(())
                }
                Some(formed) => self.begin(process, formed),
            },
            (Doing::Attach, Ok(Reply::Attached(Some(formed), _))) => self.begin(process, formed),
            (Doing::Attach, Ok(Reply::Drained)) => {
                let p = &self.processes[process];
                self.checks.drained(p).map_err(|e| format!("process {process}: {e}"))?;
                self.end(process, End::Drained, "it has left, and the job goes on");
                Ok(())
            }
            // It has left before it had its plan, or fewer are wanted than when it came.
            (Doing::Plan, Err(Refusal::Full { .. })) => {
                let p = &self.processes[process];
                self.checks.drained(p).map_err(|e| format!("process {process}: {e}"))?;
                self.end(process, End::Drained, "there is no room for it any more");
                Ok(())
            }
            (Doing::Attach, Ok(Reply::Attached(None, _))) => {
                self.ask(process);
                Ok(())
            }
            (Doing::Leave, Ok(Reply::Done)) => {
                self.end(process, End::Done, "it has left");
                Ok(())
            }
            (_, Err(Refusal::Busy | Refusal::Gone)) => {
                let turn = self.processes[process].turn;
                self.after(300, 310, What::Go { process, turn });
                Ok(())
            }
            (_, Err(refusal)) => self.refused(process, &refusal),
            (doing, Ok(reply)) => Err(format!("{doing:?} was answered with {reply:?}")),
        }
    }

    /// Its time to go on, or nothing has come of what it asked.
    pub(super) fn go(&mut self, process: usize) -> Result<(), String> {
        let p = &mut self.processes[process];
        match p.doing {
            Doing::Build => {
                p.doing = Doing::Attach;
                self.ask(process);
                Ok(())
            }
            Doing::Train => self.enter(process),
            Doing::Gone => Ok(()),
            // Its job is done, whoever has heard of that.
            Doing::Leave if self.host.gone => {
                self.end(process, End::Done, "nobody is left to hear that it leaves");
                Ok(())
            }
            Doing::Register | Doing::Plan | Doing::Attach if self.host.gone => {
                self.end(process, End::Told, "the coordinator is gone");
                Ok(())
            }
            _ => {
                self.ask(process);
                Ok(())
            }
        }
    }

    /// A generation begins for a process.
    pub(super) fn begin(&mut self, process: usize, formed: Generation) -> Result<(), String> {
        let done = |p: &&Process| p.end == Some(End::Done) || p.doing == Doing::Leave;
        let done = self.processes.iter().filter(done).count();
        let least = (self.setting.min_world as usize).saturating_sub(done);
        let p = &mut self.processes[process];
        let standing = p.state;
        // Its state may be needed where others have died.
        p.kept += u64::from(p.departs(self.now) == Departure::Boundary);
        if p.kept > 3 + self.setting.faults {
            return Err(format!("process {process} is to leave, and is in one generation after the other"));
        }
        self.checks.formed(&formed, standing, &mut self.groups, least)?;
        // None has finished a step: all begin anew.
        if formed.source.is_none() {
            p.state = None;
        }
        let number = formed.number;
        (p.generation, p.joins, p.doing, p.connected) = (number, false, Doing::Train, false);
        (p.collectives, p.waits, p.formed) = (0, false, Some(formed));
        p.turn += 1;
        if p.over > number {
            self.part(process, "it was over before it began");
            return Ok(());
        }
        let turn = p.turn;
        self.after(10, 300, What::Go { process, turn });
        Ok(())
    }

    pub(super) fn regrouped(&mut self, process: usize, told: Regroup) {
        let Some(What::Regroup { told, .. }) = self.held_up(process, What::Regroup { process, told }) else {
            return;
        };
        let p = &mut self.processes[process];
        p.over = p.over.max(told.generation);
        if p.doing == Doing::Train && p.generation < told.generation {
            self.part(process, &told.why);
        }
    }
}

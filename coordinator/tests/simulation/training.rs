//! What a worker process does in its generation: connects, takes on the source's state, and trains step by step.

use super::group::{Enters, State};
use super::host::{Asker, Call, header};
use super::process::Doing;
use super::rng::mixed;
use super::world::{What, World};
use octrain_coordinator::job::Event;
use octrain_proto::v1::{Departure, StepReport};

impl World {
    /// Leaves its generation for the next one.
    pub(super) fn part(&mut self, process: usize, why: &str) {
        self.say(format!(
            "process {process} parts from generation {}: {why}",
            self.processes[process].generation
        ));
        self.gone_from_group(process);
        let p = &mut self.processes[process];
        (p.doing, p.connected, p.waits) = (Doing::Attach, false, false);
        self.ask(process);
    }

    /// The others find that a rank is gone: their collectives fail, now or later, or hang.
    pub(super) fn gone_from_group(&mut self, process: usize) {
        let p = &self.processes[process];
        let (number, rank) = (p.generation, p.rank());
        if p.formed.is_none() || p.doing != Doing::Train && p.lives() {
            return;
        }
        let Some(group) = self.groups.get_mut(&number) else { return };
        group.gone.insert(rank);
        for other in 0..self.processes.len() {
            let p = &self.processes[other];
            if other != process && p.lives() && p.doing == Doing::Train && p.generation == number {
                self.may_break(other);
            }
        }
    }

    pub(super) fn may_break(&mut self, process: usize) {
        let turn = self.processes[process].turn;
        match self.rng.in_hundred(80) {
            true => self.after(1, 1500, What::Broken { process, turn }),
            // It waits until its own deadline.
            false => self.after(20_000, 20_000, What::Broken { process, turn }),
        }
    }

    /// Enters the next collective of its generation.
    pub(super) fn enter(&mut self, process: usize) -> Result<(), String> {
        let last = self.setting.steps;
        self.gives_up_asking(process);
        let p = &mut self.processes[process];
        let number = p.generation;
        let what = match (p.connected, p.collectives, p.state) {
            (false, ..) => Enters::Connect,
            (true, 1, state) => Enters::TakeOn(state),
            (true, _, None) => return Err(format!("process {process} trains and has no weights")),
            (true, _, Some(state)) if state.step >= last => Enters::Conclude { at: state },
            (true, _, Some(from)) => {
                let departs = p.departs(self.now);
                Enters::Step {
                    from,
                    boundary: p.boundary == number || departs == Departure::Boundary,
                    interrupt: p.interrupt || departs == Departure::All,
                }
            }
        };
        self.enters(process, what)
    }

    pub(super) fn enters(&mut self, process: usize, what: Enters) -> Result<(), String> {
        let p = &mut self.processes[process];
        let (number, rank, n) = (p.generation, p.rank(), p.collectives);
        p.collectives += 1;
        p.waits = true;
        p.turn += 1;
        let group = self.groups.get_mut(&number).ok_or("a generation that nobody was told of")?;
        let complete =
            group.enter(n, rank, process, what).map_err(|e| format!("generation {number}: {e}"))?;
        // Who is gone takes no part any more, whatever it had brought.
        if !group.gone.is_empty() {
            self.may_break(process);
            return Ok(());
        }
        if !complete {
            return Ok(());
        }
        let all: Vec<usize> = group.collectives[n].entered.values().map(|(p, _)| *p).collect();
        if matches!(what, Enters::Step { .. }) {
            self.checks.steps(number)?;
        }
        // Each learns of it on its own; one that hears before that of another's end never does.
        for other in all {
            let turn = self.processes[other].turn;
            self.after(1, 40, What::Completed { process: other, turn, n });
        }
        Ok(())
    }

    /// A collective is done, as this process knows.
    pub(super) fn completed(&mut self, process: usize, n: usize) -> Result<(), String> {
        let (number, last) = (self.processes[process].generation, self.setting.steps);
        let group = self.groups.get(&number).ok_or("a generation that nobody was told of")?;
        let entered = &group.collectives[n].entered;
        let brought: Vec<Enters> = entered.values().map(|(_, what)| *what).collect();
        let source = group.source;
        let p = &mut self.processes[process];
        p.waits = false;
        match brought[p.rank() as usize] {
            Enters::Connect => p.connected = true,
            Enters::TakeOn(own) => {
                let state = match source.map(|rank| brought[rank as usize]) {
                    Some(Enters::TakeOn(Some(state))) => state,
                    Some(other) => return Err(format!("generation {number}: the source brings {other:?}")),
                    None => State { step: 0, hash: 0 },
                };
                if own.is_some_and(|own| own.step > state.step) {
                    return Err(format!("generation {number}: from {own:?} back to {state:?}"));
                }
                p.state = Some(state);
                self.checks.taken_on(number, state)?;
            }
            Enters::Step { from, .. } => {
                let state =
                    State { step: from.step + 1, hash: mixed(from.hash ^ (number << 32 | (from.step + 1))) };
                (p.state, p.stepped) = (Some(state), state.step);
                self.checks.finished(number, state)?;
                let asked = |f: fn(&Enters) -> bool| brought.iter().any(f);
                let boundary = asked(|e| matches!(e, Enters::Step { boundary: true, .. }));
                if asked(|e| matches!(e, Enters::Step { interrupt: true, .. })) {
                    let p = &mut self.processes[process];
                    (p.interrupt, p.doing) = (true, Doing::Leave);
                    self.ask(process);
                    return Ok(());
                }
                if self.rng.in_hundred(10) {
                    let p = &self.processes[process];
                    let report = StepReport { step: state.step, ..StepReport::default() };
                    let event = Event::ReportStep { header: header(p), report };
                    self.send(Call { event, wait: 0, asker: Asker::Nobody }, process);
                }
                if boundary && state.step < last {
                    return self.enters(process, Enters::Part { at: state });
                }
            }
            Enters::Part { .. } => {
                self.part(process, "a boundary between two steps");
                return Ok(());
            }
            Enters::Conclude { .. } => {
                p.doing = Doing::Leave;
                self.ask(process);
                return Ok(());
            }
        }
        let p = &mut self.processes[process];
        p.turn += 1;
        let turn = p.turn;
        self.after(20, 400, What::Go { process, turn });
        Ok(())
    }
}

//! Faults in the coordinator's decisions: what the checks are worth, each has to be found.

use octrain_coordinator::job::{Answer, Beat, Event, Job, Phase, Reply};
use octrain_coordinator::ranks;
use octrain_proto::v1::{Departure, Generation};

/// A fault in the coordinator's decisions, which a run has to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Calls of generations that are over count as those of the current one.
    TakesOldGenerations,
    /// All take on the state of rank 0, however far it is.
    TakesTheFirstAsSource,
    /// All begin anew.
    NamesNoSource,
    /// Nobody is said to have no state.
    TakesAllForFinished,
    /// Ranks are told of rosters in an order of their own.
    OrdersRostersAnew,
    /// Two ranks are the first.
    GivesARankTwice,
    /// Where workers stand is forgotten.
    ForgetsStandings,
    /// Broken connections, silence and time-outs are not looked at.
    NeverTicks,
    /// Whoever has been told of an end is told of it again.
    EndsGenerationsTwice,
    /// Who has left is not counted as gone.
    ForgetsWhoLeft,
    /// A worker that has come is not waited for to come: it is answered at once with the old generation.
    LetsNobodyWait,
    /// A launcher's word is said of another worker.
    BlamesTheWrongOne,
    /// Nobody hears that a worker was asked to stop.
    ForgetsWhoLeaves,
    /// Whoever was asked to stop is spared, however few are left.
    SparesAnybody,
    /// Another one leaves in the place of the one that is to.
    DrainsTheWrongOne,
    /// Whoever has left is not told so.
    KeepsWhoHasLeft,
    /// A wish for fewer workers is taken, and nothing comes of it.
    IgnoresResizes,
    /// One more leaves than has to.
    DrainsOneTooMany,
    /// Who waits is taken for one that is waited for.
    MistakesWhoWaits,
    /// Nobody is taken to wait.
    NeverTellsOfHangs,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 20] = [
        Mutant::TakesOldGenerations,
        Mutant::TakesTheFirstAsSource,
        Mutant::NamesNoSource,
        Mutant::TakesAllForFinished,
        Mutant::OrdersRostersAnew,
        Mutant::GivesARankTwice,
        Mutant::ForgetsStandings,
        Mutant::NeverTicks,
        Mutant::EndsGenerationsTwice,
        Mutant::ForgetsWhoLeft,
        Mutant::LetsNobodyWait,
        Mutant::BlamesTheWrongOne,
        Mutant::ForgetsWhoLeaves,
        Mutant::SparesAnybody,
        Mutant::DrainsTheWrongOne,
        Mutant::KeepsWhoHasLeft,
        Mutant::IgnoresResizes,
        Mutant::DrainsOneTooMany,
        Mutant::MistakesWhoWaits,
        Mutant::NeverTellsOfHangs,
    ];

    /// What it makes of an event, in the place of the decision.
    pub fn event(self, job: &Job, event: Event) -> Option<Event> {
        match (self, event) {
            (Mutant::TakesOldGenerations, Event::Attach { mut header, standing, message, wait }) => {
                header.generation = job.generation;
                Some(Event::Attach { header, standing, message, wait })
            }
            (Mutant::ForgetsStandings, Event::Attach { header, message, wait, .. }) => {
                Some(Event::Attach { header, standing: None, message, wait })
            }
            (Mutant::NeverTicks, Event::Tick) | (Mutant::ForgetsWhoLeft, Event::Leave { .. }) => None,
            (Mutant::BlamesTheWrongOne, Event::Exited(mut request)) => {
                let other = job.members.values().find(|m| m.lives() && m.facts.pid != request.pid);
                if let Some(other) = other {
                    let process = (other.facts.pid - 1000) as usize;
                    (request.pid, request.token) = (other.facts.pid, super::worker::token(process));
                    (request.host, request.local_index) = (other.facts.host.clone(), other.facts.local_index);
                }
                Some(Event::Exited(request))
            }
            (Mutant::ForgetsWhoLeaves, Event::Heartbeat(header, beat)) => {
                Some(Event::Heartbeat(header, Beat { leaving: false, ..beat }))
            }
            (Mutant::DrainsTheWrongOne, Event::Heartbeat(mut header, beat)) => {
                let other = |name: &&String| beat.leaving && **name != header.member;
                if let Some(other) = job.members.keys().find(other).cloned() {
                    header.member = other;
                }
                Some(Event::Heartbeat(header, beat))
            }
            (Mutant::IgnoresResizes, Event::Resize { workers }) => {
                let size = job.plan.as_deref().map_or(workers, |plan| plan.world_size);
                Some(Event::Resize { workers: workers.max(size) })
            }
            (Mutant::DrainsOneTooMany, Event::Resize { workers }) => {
                Some(Event::Resize { workers: workers.saturating_sub(1) })
            }
            (Mutant::MistakesWhoWaits, Event::Heartbeat(header, mut beat)) => {
                beat.at.waits = !beat.at.waits;
                beat.collectives = 2 * beat.collectives + if beat.at.waits { 4 } else { 0 };
                Some(Event::Heartbeat(header, beat))
            }
            (Mutant::NeverTellsOfHangs, Event::Heartbeat(header, mut beat)) => {
                beat.at.waits = false;
                Some(Event::Heartbeat(header, beat))
            }
            (_, event) => Some(event),
        }
    }

    /// What it makes of an answer.
    pub fn answer(self, job: &Job, event: &Event, answer: Answer) -> Answer {
        match (self, answer) {
            (Mutant::LetsNobodyWait, Answer::Park) => match (event, &job.phase) {
                (Event::Attach { .. }, Phase::Reforming { .. }) => {
                    let roster = job.members.values().filter(|m| m.attached.is_some() && m.counted());
                    let places: Vec<_> = roster.map(|m| m.place()).collect();
                    let roster = ranks::assign(&places);
                    let formed = Generation {
                        number: job.generation,
                        roster,
                        source: Some(0),
                        ..Generation::default()
                    };
                    Answer::Reply(Reply::Attached(Some(formed), String::new()))
                }
                _ => Answer::Park,
            },
            (_, Answer::Reply(Reply::Attached(Some(formed), text))) => {
                Answer::Reply(Reply::Attached(Some(self.generation(formed)), text))
            }
            (Mutant::SparesAnybody, Answer::Reply(Reply::Heartbeat(mut heard))) => {
                if heard.departure == Departure::All {
                    heard.departure = Departure::Boundary;
                }
                Answer::Reply(Reply::Heartbeat(heard))
            }
            (Mutant::KeepsWhoHasLeft, Answer::Reply(Reply::Drained)) => {
                Answer::Reply(Reply::Attached(None, String::new()))
            }
            (_, answer) => answer,
        }
    }

    fn generation(self, mut formed: Generation) -> Generation {
        match self {
            Mutant::TakesTheFirstAsSource => formed.source = formed.source.map(|_| 0),
            Mutant::NamesNoSource => formed.source = None,
            Mutant::TakesAllForFinished => formed.joined.clear(),
            Mutant::OrdersRostersAnew => {
                let by = formed.rank as usize % formed.roster.len().max(1);
                formed.roster.rotate_left(by);
            }
            Mutant::GivesARankTwice => formed.rank = formed.rank.min(formed.roster.len() as u32 / 2),
            _ => {}
        }
        formed
    }
}

//! Calls that wait for what is not there yet: for the plan, for a generation, or for a key of the store.

use crate::job::{Event, Reply, Wait, Wakes};
use crate::refusal::Refusal;
use std::collections::BTreeMap;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How a caller is answered.
pub(crate) type Answering = oneshot::Sender<Result<Reply, Refusal>>;

/// A call that waits.
pub(crate) struct Parked {
    /// What was asked.
    pub event: Event,
    /// Until when the caller waits.
    pub until: Instant,
    /// Who asked.
    pub reply: Answering,
}

impl Parked {
    /// What is asked in its name.
    pub(crate) fn again(&self, wait: Wait) -> Event {
        match self.event.clone() {
            Event::GetPlan { header, .. } => Event::GetPlan { header, wait },
            Event::StoreGet { header, key, .. } => Event::StoreGet { header, key, wait },
            Event::Attach { header, standing, message, .. } => {
                Event::Attach { header, standing, message, wait }
            }
            other => other,
        }
    }

    /// The key it waits for; none: it waits for the plan, or for a generation.
    fn key(&self) -> Option<&String> {
        match &self.event {
            Event::StoreGet { key, .. } => Some(key),
            _ => None,
        }
    }
}

/// All of them, by what they wait for; those that wait for a key are not asked about when another one is set.
#[derive(Default)]
pub(crate) struct Room {
    waiting: BTreeMap<Option<String>, Vec<Parked>>,
    count: usize,
}

impl Room {
    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Takes one in.
    pub(crate) fn put(&mut self, parked: Parked) {
        self.count += 1;
        self.waiting.entry(parked.key().cloned()).or_default().push(parked);
    }

    /// Takes out those whom a change concerns.
    pub(crate) fn woken(&mut self, by: Wakes) -> Vec<Parked> {
        let out: Vec<Parked> = match by {
            Wakes::Nobody => return Vec::new(),
            Wakes::Key(key) => self.waiting.remove(&Some(key)).unwrap_or_default(),
            Wakes::Everybody => std::mem::take(&mut self.waiting).into_values().flatten().collect(),
        };
        self.count -= out.len();
        out
    }

    /// Takes out those whose time is up; forgets those who have hung up.
    pub(crate) fn expired(&mut self, now: Instant) -> Vec<Parked> {
        let mut out = Vec::new();
        for list in self.waiting.values_mut() {
            list.retain(|p| !p.reply.is_closed());
            out.extend(list.extract_if(.., |p| p.until <= now));
        }
        self.waiting.retain(|_, list| !list.is_empty());
        self.count = self.waiting.values().map(Vec::len).sum();
        out
    }
}

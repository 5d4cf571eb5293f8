//! Hangs: all workers live, none of them makes progress, and some wait in an operation that others have not entered. Said once, with
//! who waits for whom and where; nobody is punished for it.
//!
//! Progress of a worker is whatever its heartbeats say otherwise than the one before: a step, a collective that it has entered, another
//! activity, the end of a wait. What counts is the longest pause between two of them, of any worker: a hang lasts longer than
//! that by a factor. What is not a step (saving, evaluating, preparing, the first step of a generation, in which kernels are compiled) may
//! take long, has a longer time before anything has been seen of it, and is named as such.

use super::{Job, Phase};
use crate::chronicle::happening::{Happening, ROSTER, seconds};
use crate::config::CoordinatorConfig;
use crate::membership::{Member, NAMED, Now};
use crate::text::{MAX_REASON, line};
use octrain_proto::v1::{Activity, Notice, NoticeKind, Operation, Whereabouts};
use std::sync::Arc;
use std::time::Duration;

/// Shortest pause that is a hang, among steps.
const STEPS: Duration = Duration::from_secs(6);
/// The same of what may take long.
const LONG: Duration = Duration::from_secs(60);
/// How many times as long as the longest pause so far a hang is at least, where that is no longer than the last one.
const FACTOR: u32 = 3;
const LONGEST: Duration = Duration::from_secs(300);
/// Pauses that are too short to matter.
const SHORT: Duration = Duration::from_secs(2);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Steps,
    /// A generation's first step, or the steps of a job before one has been seen.
    FirstStep,
    Preparing,
    Connecting,
    Evaluating,
    Saving,
}

/// A hang that was told.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    generation: u64,
    /// When a worker had last made progress before it.
    began: Now,
    /// E.g. `all_reduce 7`.
    what: String,
    /// To the workers, and in the log.
    text: Arc<String>,
}

/// What is known of the job's pace.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Pace {
    /// When a worker last made progress, or the generation was formed.
    moved: Now,
    /// The longest pause of each kind that was no hang, in the order of [`Kind`].
    longest: [Duration; 6],
    /// Steps of this generation: the first and the last one that was finished.
    generation: u64,
    steps: Option<(u64, u64)>,
    /// A step behind the first one of a generation has been seen.
    seen: bool,
    told: Option<Told>,
}

impl Pace {
    /// Steps that the generation has done.
    fn done(&self) -> u64 {
        self.steps.map_or(0, |(first, last)| last - first + 1)
    }

    /// The longest pause that is no hang.
    fn limit(&self, kind: Kind, config: &CoordinatorConfig) -> Duration {
        let least = if kind == Kind::Steps { STEPS } else { LONG };
        let learnt = (self.longest[kind as usize] * FACTOR).min(LONGEST);
        least.max(config.heartbeat_interval * 3).max(learnt)
    }
}

/// A worker has said where it is: whether it has moved, and what there is to learn of that.
pub(super) fn heard(now: Now, job: &mut Job, name: &str, (step, collectives): (u64, u64), at: Whereabouts) {
    let of_it = |m: &&Member| m.generation == job.generation && !m.joins;
    // A heartbeat that was long under way says where it was.
    let Some(member) = job.members.get(name).filter(of_it).filter(|m| collectives >= m.collectives) else {
        return;
    };
    // What counts of its steps is how many there are, not what they took.
    let place = |at: &Whereabouts| (at.activity, at.operation, at.bytes, at.waits);
    let moved = step > member.step || collectives > member.collectives || place(&at) != place(&member.at);
    if moved {
        learn(now, job);
    }
    if let Some(member) = job.members.get_mut(name) {
        (member.collectives, member.at, member.beat) = (collectives, at, now);
        member.speed.from.get_or_insert((at.steps, at.own_us));
    }
}

/// A worker of the generation has finished so many steps.
pub(super) fn stepped(job: &mut Job, step: u64) {
    let (generation, from) = (job.generation, job.history.from());
    let pace = &mut job.pace;
    if pace.generation != generation {
        (pace.generation, pace.steps) = (generation, None);
    }
    if step > from {
        let (first, last) = pace.steps.unwrap_or((step, step));
        pace.steps = Some((first.min(step), last.max(step)));
        pace.seen |= pace.done() > 1;
    }
}

/// A pause is over, by itself. Of what may take long, one that was told as a hang is learnt, too, so as not to be told each time it comes.
/// Where somebody was not heard in it, it says nothing.
fn learn(now: Now, job: &mut Job) {
    let pause = now.saturating_sub(job.pace.moved);
    let suspected = matches!(job.phase, Phase::Running { suspicion: Some(_), .. });
    if pause >= SHORT && !suspected {
        let all = present(job);
        let kind = kind(&all, &job.pace);
        let heard = all.iter().all(|m| m.disconnected.is_none());
        if heard && (kind != Kind::Steps || job.pace.told.is_none()) {
            let longest = &mut job.pace.longest[kind as usize];
            *longest = pause.max(*longest);
        }
    }
    job.pace.moved = now;
}

/// A generation is formed: its workers begin.
pub(super) fn formed(now: Now, job: &mut Job) {
    job.pace.moved = now;
    for m in job.members.values_mut().filter(|m| m.generation == job.generation) {
        // What it has done in all goes on.
        let at = Whereabouts { steps: m.at.steps, own_us: m.at.own_us, ..Whereabouts::default() };
        (m.collectives, m.at, m.beat, m.speed.from) = (0, at, now, None);
    }
}

/// Those who are in the generation, in the order of their ranks.
fn present(job: &Job) -> Vec<&Member> {
    let of_it = |m: &&Member| m.counted() && m.generation == job.generation;
    let mut all: Vec<&Member> = job.members.values().filter(of_it).collect();
    all.sort_by_key(|m| m.rank);
    all
}

/// Who has entered fewer operations than others; all where nobody has.
fn behind<'a>(all: &[&'a Member]) -> Vec<&'a Member> {
    let least = all.iter().map(|m| m.collectives).min().unwrap_or_default();
    all.iter().filter(|m| m.collectives == least).copied().collect()
}

fn kind(present: &[&Member], pace: &Pace) -> Kind {
    let of = |m: &&Member| match m.at.activity() {
        Activity::Preparing => Kind::Preparing,
        Activity::Connecting => Kind::Connecting,
        Activity::Evaluating => Kind::Evaluating,
        Activity::Saving => Kind::Saving,
        Activity::Data | Activity::Step if pace.seen && pace.done() > 0 => Kind::Steps,
        Activity::Data | Activity::Step => Kind::FirstStep,
    };
    // Of several, one that may take long is what the others may wait for.
    behind(present).iter().map(of).max_by_key(|kind| *kind as usize).unwrap_or(Kind::Steps)
}

/// What is found, where no worker has made progress for too long.
fn found(now: Now, job: &Job, config: &CoordinatorConfig) -> Option<(Told, Notice)> {
    let pause = now.saturating_sub(job.pace.moved);
    let Phase::Running { suspicion: None, .. } = &job.phase else { return None };
    if pause < STEPS {
        return None;
    }
    let all = present(job);
    // Who has not said lately where it is may have moved: it is silent, which is another matter.
    let old = |m: &&Member| m.disconnected.is_some() || now > m.beat + config.heartbeat_interval * 2;
    if all.len() < 2 || all.iter().any(old) {
        return None;
    }
    let (behind, most) = (behind(&all), all.iter().map(|m| m.collectives).max().unwrap_or_default());
    let least = behind.first().map_or(0, |m| m.collectives);
    let all_in = least == most;
    let waits = |m: &&&Member| all_in || m.at.waits && m.collectives > least;
    let waiting: Vec<&Member> = all.iter().filter(waits).copied().collect();
    if waiting.is_empty() || all_in && all.iter().any(|m| !m.at.waits || m.collectives == 0) {
        return None;
    }
    if pause < job.pace.limit(kind(&all, &job.pace), config) {
        return None;
    }
    // One that is not behind has entered this one, or a later one after it was done with this.
    let number = if all_in { least } else { least + 1 };
    let in_it = all.iter().find(|m| m.collectives == number).map(|m| m.at);
    let at = in_it.unwrap_or_default();
    let what = operation(at.operation(), number, at.bytes);
    let waits = ranks(&waiting);
    let who = match all_in {
        true => format!(
            "all workers have entered {what} and nobody comes out of it: look for a network between them, or a GPU, that hangs"
        ),
        false => {
            let named: Vec<String> = behind.iter().take(NAMED).map(|m| absent(m)).collect();
            let more = behind.len() - named.len();
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            format!("{what} is not entered by {}{more}; in it {waits}", named.join("; "))
        }
    };
    let text = line(&format!("no progress for {:.1} s: {who}", pause.as_secs_f64()), MAX_REASON);
    let some = |of: &[&Member]| of.iter().filter_map(|m| m.rank).take(ROSTER).collect();
    let notice = Notice {
        kind: NoticeKind::Hang.into(),
        generation: job.generation,
        message: text.clone(),
        ranks: if all_in { vec![] } else { some(&behind) },
        waiting: some(&waiting),
        operation: at.operation,
        number,
        bytes: at.bytes,
        ..Notice::default()
    };
    Some((Told { generation: job.generation, began: job.pace.moved, what, text: Arc::new(text) }, notice))
}

/// Time has passed. What there is to say.
pub(super) fn look(now: Now, job: &mut Job, config: &CoordinatorConfig) -> Option<String> {
    let Some(Told { generation, began, what, .. }) = job.pace.told.clone() else {
        let (told, notice) = found(now, job, config)?;
        let text = told.text.to_string();
        let (behind, waiting) = (notice.ranks.clone(), notice.waiting.clone());
        let (number, bytes) = (notice.number, notice.bytes);
        job.tell(now, Happening::Hang { why: text.clone(), behind, waiting, number, bytes });
        job.history.notice(told.began, notice);
        job.pace.told = Some(told);
        return Some(text);
    };
    let runs = matches!(job.phase, Phase::Running { .. }) && generation == job.generation;
    if runs && job.pace.moved <= began {
        return None;
    }
    let (end, then) = if runs { (job.pace.moved, "") } else { (now, ", with its generation") };
    let lasted = end.saturating_sub(began);
    job.history.over(lasted, |n| n.kind() == NoticeKind::Hang);
    job.pace.told = None;
    let text = format!("the hang in {what} is over after {:.1} s{then}", lasted.as_secs_f64());
    job.tell(now, Happening::HangOver { why: text.clone(), lasted_s: seconds(lasted) });
    job.outcome().is_none().then_some(text)
}

/// The hang of a generation that is going on.
pub(super) fn told(job: &Job, generation: u64) -> Option<Arc<String>> {
    let told = job.pace.told.as_ref().filter(|t| t.generation == generation);
    told.map(|t| Arc::clone(&t.text))
}

fn operation(operation: Operation, number: u64, bytes: u64) -> String {
    let name = match operation {
        Operation::None => "operation",
        Operation::Connect => "connect",
        Operation::Agree => "the agreement on where to begin, operation",
        Operation::AllReduce => "all_reduce",
        Operation::Broadcast => "broadcast",
        Operation::AllGather => "all_gather",
        Operation::Barrier => "barrier",
    };
    match bytes {
        0 => format!("{name} {number}"),
        bytes => format!("{name} {number} ({bytes} bytes)"),
    }
}

/// One that is waited for, and what it does meanwhile.
fn absent(m: &Member) -> String {
    let does = match m.at.activity() {
        _ if m.at.waits => "waits in the one before",
        Activity::Preparing => "prepares, which may take long",
        Activity::Connecting => "connects",
        Activity::Data => "waits for the images of its next step",
        Activity::Step => "computes its step",
        Activity::Evaluating => "evaluates, which may take long",
        Activity::Saving => "saves a checkpoint, which may take long",
    };
    format!("{}, which {does}", m.describe())
}

/// Ranks, e.g. `wait ranks 0 and 2`.
fn ranks(of: &[&Member]) -> String {
    let named: Vec<String> = of.iter().take(NAMED).filter_map(|m| m.rank).map(|r| r.to_string()).collect();
    match (of.len() - named.len(), named.as_slice()) {
        (0, [rank]) => format!("waits rank {rank}"),
        (0, [first @ .., last]) => format!("wait ranks {} and {last}", first.join(", ")),
        (more, some) => format!("wait ranks {} and {more} more", some.join(", ")),
    }
}

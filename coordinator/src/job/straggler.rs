//! Stragglers: workers that take much longer than most for their own part of a step, which all others then wait for. Said when it has
//! lasted, and when it is over; nobody is punished for it.
//!
//! What is compared is the time that a worker does not wait for others, of a step and by its number of microbatches, over windows in
//! which all have done some steps. One is slow after several windows above one ratio to both medians, and ceases to be so below a lower
//! one, or with its generation.

use super::{Job, Phase};
use crate::chronicle::{Happening, seconds};
use crate::membership::{Member, Now};
use crate::speed::{Speed, Verdict, median, verdict};
use crate::text::{MAX_REASON, line};
use octrain_core::strategy::Rank;
use octrain_proto::v1::{Notice, NoticeKind};
use std::time::Duration;

/// Shortest window.
const WINDOW: Duration = Duration::from_secs(10);
/// Steps that every worker has done in a window.
const STEPS: u64 = 3;
/// Windows in a row.
const WINDOWS: u32 = 3;

/// The window that is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Window {
    generation: u64,
    begun: Now,
}

/// Begins to look at the workers of a generation.
fn begin(now: Now, job: &mut Job) {
    job.window = Window { generation: job.generation, begun: now };
    job.members.values_mut().for_each(|m| m.speed.from = m.speed.from.and(Some((m.at.steps, m.at.own_us))));
}

/// Time has passed. What there is to say.
pub(super) fn look(now: Now, job: &mut Job) -> Option<String> {
    if !matches!(job.phase, Phase::Running { .. }) {
        return None;
    }
    if job.window.generation != job.generation {
        begin(now, job);
        // Another generation has other shares, and other ranks: who is slow in it is told anew.
        let anew = |m: &mut Member| m.speed = Speed { from: m.speed.from, ..Speed::default() };
        job.members.values_mut().for_each(anew);
        job.history.all_over(now, NoticeKind::Slow);
    }
    // A window begins once all have said what they had done before it.
    let generation = job.generation;
    let in_it = |m: &Member| m.counted() && m.generation == generation;
    if job.members.values().any(|m| in_it(m) && m.speed.from.is_none()) {
        begin(now, job);
    }
    let microbatches = job.plan.as_deref()?.microbatches as usize;
    if now < job.window.begun + WINDOW {
        return None;
    }
    let world = job.members.values().filter(|m| in_it(m)).count();
    let steps = |m: &Member| m.speed.from.map_or(0, |(from, _)| m.at.steps.saturating_sub(from));
    // One that had no rank has no part of a step.
    let share = |m: &Member| {
        let rank = Rank { rank: m.rank? as usize, world };
        (m.rank? < world as u32).then(|| rank.local_microbatches(microbatches).len()).filter(|n| *n > 0)
    };
    if world < 2 || job.members.values().filter(|m| in_it(m)).any(|m| steps(m) < STEPS) {
        return None;
    }
    for m in job.members.values_mut().filter(|m| in_it(m)) {
        m.speed.window(m.at.steps, m.at.own_us);
    }
    let each = |m: &Member| Some(m.speed.own? / share(m)? as f64);
    let of_all = |f: &dyn Fn(&Member) -> Option<f64>| {
        median(job.members.values().filter(|m| in_it(m)).filter_map(f).collect())
    };
    let (each_median, own_median) = (of_all(&each), of_all(&|m| m.speed.own));
    if each_median <= 0.0 {
        begin(now, job);
        return None;
    }
    let (mut said, mut told) = (Vec::new(), Vec::new());
    for m in job.members.values_mut().filter(|m| in_it(m)) {
        let (Some(each), Some(own), Some(rank)) = (each(m), m.speed.own, m.rank) else {
            continue;
        };
        let verdict = verdict((each, each_median), (own, own_median));
        m.speed.windows = if verdict == Verdict::Slow { m.speed.windows + 1 } else { 0 };
        let (own_s, times_median) = (own, each / each_median);
        let is = format!(
            "{own:.3} s of its own a step, {times_median:.1} times the median of {world} workers by its microbatches"
        );
        let text = match (m.speed.slow, verdict) {
            (None, Verdict::Slow) if m.speed.windows >= WINDOWS => {
                m.speed.slow = Some(now);
                told.push(Happening::WorkerSlow { worker: (&*m).into(), own_s, times_median });
                let text = format!("{} is slow: {is}", m.describe());
                let (kind, message) = (NoticeKind::Slow.into(), text.clone());
                let notice = Notice { kind, generation, message, ranks: vec![rank], ..Notice::default() };
                job.history.notice(now, notice);
                text
            }
            (Some(since), Verdict::Well) => {
                m.speed.slow = None;
                let lasted = now.saturating_sub(since);
                let (worker, lasted_s) = ((&*m).into(), seconds(lasted));
                told.push(Happening::WorkerNoLongerSlow { worker, own_s, times_median, lasted_s });
                let of_it = |n: &Notice| n.kind() == NoticeKind::Slow && n.ranks == [rank];
                job.history.over(lasted, of_it);
                format!("{} is no longer slow after {:.0} s: {is}", m.describe(), lasted.as_secs_f64())
            }
            _ => continue,
        };
        said.push(text);
    }
    told.into_iter().for_each(|what| job.tell(now, what));
    begin(now, job);
    (!said.is_empty()).then(|| line(&said.join("; "), MAX_REASON))
}
